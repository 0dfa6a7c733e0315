"""A small world for laws: two cubes, a floating gripper, and demonstrations that put one on the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from factory import poses
from factory.demos import Demo
from factory.placements import sample_placements
from factory.sim import Block
from factory.specs import BoxSpec, ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above, grasp_contacts, held, stacked

DOWN = np.diag([1.0, -1.0, -1.0])


def _placement(name: str, half_range_m: float) -> PlacementSpec:
    return PlacementSpec(
        object=name,
        x_m=(-half_range_m, half_range_m),
        y_m=(-half_range_m, half_range_m),
        z_m=(0.03, 0.03),
        reference_m=(0.0, 0.0, 0.8),
        radius_m=0.03,
    )


TASK = TaskSpec(
    name="kinematic_stack",
    instruction="Put a on b.",
    paraphrases=("Stack a onto b.",),
    robot=PANDA,
    scene=SceneSpec(
        base="table",
        boxes={
            "a": BoxSpec(half_size_m=(0.02, 0.02, 0.02), rgba=(1, 0, 0, 1)),
            "b": BoxSpec(half_size_m=(0.025, 0.025, 0.025), rgba=(0, 1, 0, 1)),
        },
        objects={
            name: ObjectSpec(frame=f"body:{name}_main", body=f"{name}_main", contact=(f"body:{name}_main",))
            for name in ("a", "b")
        },
        contacts=(*grasp_contacts("a", "b"), ("a", "b")),
    ),
    resets={
        "D0": ResetSpec(placements=(_placement("a", 0.08), _placement("b", 0.08))),
        "D1": ResetSpec(placements=(_placement("a", 0.2), _placement("b", 0.2))),
    },
    subtasks={
        "right": (
            SubtaskSpec(name="grasp", object_ref="a", end_signal="a_grasped", grasps="a", end_jitter_steps=(2, 5)),
            SubtaskSpec(name="place", object_ref="b", carries="a"),
        )
    },
    signals={"a_grasped": held("a")},
    held={"a": held("a")},
    success=stacked("a", "b", 0.84),
    needs={"a": above("a", 0.84)},
    settle_steps=3,
    success_hold_steps=5,
)


def demonstrate(backend: KinematicBackend, *, seed: int, name: str, reset: str = "D0") -> Demo:
    """Record one demonstration: over a, down, close, over b, down, open, up."""
    rng = np.random.default_rng(seed)
    backend.reset(0, sample_placements(backend.task.reset(reset), rng), rng)
    scene = backend.restore(0, backend.snapshot(0))
    a, b = scene.position("a")[0], scene.position("b")[0]
    yaw_a, yaw_b = (poses.yaw_matrix(np.array(_yaw(scene.T_world_object[k][0]))) for k in ("a", "b"))
    above, top = np.array([0, 0, 0.1]), b + np.array([0, 0, 0.05])
    legs = [(yaw_a, a + above, -1), (yaw_a, a, -1), (yaw_a, a, 1), (yaw_a, a + above, 1)]
    legs += [(yaw_b, top + above, 1), (yaw_b, top, 1), (yaw_b, top, -1), (yaw_b, top + above, -1)]
    here, state = scene.T_world_eef["right"][0], backend.sim_state(0)
    actions, states = [], [np.concatenate([state["time"], state["state"]])]
    for turn, position, gripper in legs:
        goal = poses.pose(turn @ DOWN, position)
        n = 8 + int(rng.integers(4))
        path = poses.interpolate(here, goal, np.arange(1, n + 1) / n)
        block = Block(T_world_eef=path, gripper=np.full((n, 1), float(gripper)), action_noise=np.zeros((n, 6)))
        result = backend.advance({0: {"right": block}})[0]
        actions.append(result.actions)
        states += [
            np.concatenate([t, s]) for t, s in zip(result.sim_states["time"], result.sim_states["state"], strict=True)
        ]
        here = goal
    return Demo(
        name=name,
        path="made",
        format="seeds",
        environment=backend.task.name,
        control_hz=20.0,
        actions=np.concatenate(actions).astype(float),
        states=np.stack(states),
    )


def _yaw(T: np.ndarray) -> float:
    """Yaw of a cube, reduced to the nearest of its four equal faces."""
    yaw = np.arctan2(T[1, 0], T[0, 0])
    return float((yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def demos(count: int = 5) -> tuple[Demo, ...]:
    """Return a few demonstrations of the small task."""
    backend = KinematicBackend(TASK)
    return tuple(demonstrate(backend, seed=i, name=f"demo_{i}") for i in range(count))


def without_noise(task: TaskSpec = TASK) -> TaskSpec:
    """Return the task with no action noise and no jitter, for laws that hold exactly."""
    chains = {
        eef: tuple(replace(s, noise_normalised=0.0, end_jitter_steps=(0, 0)) for s in chain)
        for eef, chain in task.subtasks.items()
    }
    return replace(task, subtasks=chains)
