"""A small world for two arms: the left one puts a on b, the right one then takes the tray, and both lift it as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.constraints import Coordination, Ordering
from factory.demos import Demo
from factory.placements import sample_placements
from factory.scene import Predicate, SceneState
from factory.sim import Block
from factory.specs import (
    BoxSpec,
    ObjectSpec,
    PlacementSpec,
    ResetSpec,
    RobotSpec,
    SceneSpec,
    SubtaskSpec,
    TaskSpec,
)
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above, grasp_contacts, held
from tests.kinematic import DOWN, _yaw

FINGERS = {eef: (f"{eef}_finger1", f"{eef}_finger2") for eef in ("right", "left")}
GRIP_M = {"right": -0.12, "left": 0.12}
"""Where each hand takes the tray, along its y axis."""


def robot(width: int = 1) -> RobotSpec:
    """Return two Panda arms, each with a hand of that many dimensions."""
    hand = PANDA.eefs["right"]
    eefs = {
        eef: replace(
            hand,
            arm_action=(at, at + 6),
            gripper_action=(at + 6, at + 6 + width),
            fingers={finger: (f"geom:{finger}",) for finger in FINGERS[eef]},
        )
        for eef, at in (("right", 0), ("left", 6 + width))
    }
    return RobotSpec(name="TwoPandas", lerobot_type="two_pandas", eefs=eefs, action_dim=2 * (6 + width))


def _placement(name: str, x_m: float, y_m: float, half_range_m: float, yaw_rad: float) -> PlacementSpec:
    return PlacementSpec(
        object=name,
        x_m=(x_m - half_range_m, x_m + half_range_m),
        y_m=(y_m - half_range_m, y_m + half_range_m),
        z_m=(0.03, 0.03),
        yaw_rad=(-yaw_rad, yaw_rad),
        reference_m=(0.0, 0.0, 0.8),
    )


def _resets(half_range_m: float, yaw_rad: float) -> ResetSpec:
    places = (("tray", -0.2, 0.0), ("a", 0.2, 0.15), ("b", 0.2, -0.1))
    return ResetSpec(placements=tuple(_placement(n, x, y, half_range_m, yaw_rad) for n, x, y in places))


def put(state: SceneState) -> NDArray[np.bool_]:
    """True while a stands on b, let go."""
    return above("a", 0.84)(state) & state.touching("a", "b") & ~held("a", FINGERS["left"])(state)


def lifted(state: SceneState) -> NDArray[np.bool_]:
    """True while a stands on b and both hands hold the tray up."""
    both = held("tray", FINGERS["right"])(state) & held("tray", FINGERS["left"])(state)
    return put(state) & both & above("tray", 0.9)(state)


LIFT = Coordination(subtasks={"right": "lift", "left": "lift"}, noise_m=0.01, noise_rad=0.05)
AFTER = Ordering(first=("left", "put"), then=("right", "grasp"))

TASK = TaskSpec(
    name="two_arm_tray",
    instruction="Put a on b, then lift the tray.",
    robot=robot(),
    scene=SceneSpec(
        base="table",
        boxes={
            "tray": BoxSpec(half_size_m=(0.04, 0.15, 0.01), rgba=(0, 0, 1, 1)),
            "a": BoxSpec(half_size_m=(0.02, 0.02, 0.02), rgba=(1, 0, 0, 1)),
            "b": BoxSpec(half_size_m=(0.025, 0.025, 0.025), rgba=(0, 1, 0, 1)),
        },
        objects={name: ObjectSpec(frame=f"body:{name}", body=name) for name in ("tray", "a", "b")},
        contacts=(
            *grasp_contacts("tray", fingers=FINGERS["right"]),
            *grasp_contacts("tray", "a", fingers=FINGERS["left"]),
            ("a", "b"),
        ),
    ),
    resets={"D0": _resets(0.05, 0.3), "D1": _resets(0.08, 0.7)},
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp", object_ref="tray", end_signal="right_holds", grasps="tray", end_jitter_steps=(0, 3)
            ),
            SubtaskSpec(name="lift", object_ref="tray", carries="tray"),
        ),
        "left": (
            SubtaskSpec(name="take", object_ref="a", end_signal="a_held", grasps="a", end_jitter_steps=(1, 4)),
            SubtaskSpec(name="put", object_ref="b", end_signal="a_put", carries="a"),
            SubtaskSpec(name="grasp", object_ref="tray", end_signal="left_holds", grasps="tray"),
            SubtaskSpec(name="lift", object_ref="tray", carries="tray"),
        ),
    },
    constraints=(LIFT, AFTER),
    signals={
        "right_holds": held("tray", FINGERS["right"]),
        "a_held": held("a", FINGERS["left"]),
        "a_put": put,
        "left_holds": held("tray", FINGERS["left"]),
    },
    held={
        "a": held("a", FINGERS["left"]),
        "right:tray": held("tray", FINGERS["right"]),
        "left:tray": held("tray", FINGERS["left"]),
    },
    success=lifted,
    needs={"a": above("a", 0.84)},
    settle_steps=3,
    success_hold_steps=5,
)

Leg = tuple[NDArray[np.float64], float]
"""A goal ``(4, 4)`` and how far the hand is closed on the way, -1..1."""


def demonstrate(task: TaskSpec = TASK, *, seed: int) -> Demo:
    """Record one demonstration; who is first at the tray, and for how long nothing happens, differs between seeds."""
    backend = KinematicBackend(task)
    rng = np.random.default_rng(seed)
    scene = backend.reset(0, sample_placements(task.reset("D0"), rng), rng)
    at = {name: T[0] for name, T in scene.T_world_object.items()}
    high = np.array([0.0, 0.0, 0.1])
    legs: dict[str, list[Leg]] = {"right": [], "left": []}
    for name, spot, close in (("a", at["a"][:3, 3], 1.0), ("b", at["b"][:3, 3] + [0, 0, 0.045], -1.0)):
        turn = poses.yaw_matrix(np.array(_yaw(at[name]))) @ DOWN
        legs["left"] += [(poses.pose(turn, p), c) for p, c in ((spot + high, -close), (spot, -close), (spot, close))]
        legs["left"].append((poses.pose(turn, spot + high), close))
    tray = at["tray"]
    grips = {eef: tray @ poses.pose(DOWN, np.array([0.0, y, 0.0])) for eef, y in GRIP_M.items()}
    rows: list[dict[str, Block]] = [_play(task, scene, legs, rng)]
    here = {eef: block.T_world_eef[-1] for eef, block in rows[-1].items()}
    legs = {
        eef: [(_raised(T, 0.1), -1.0), (T, -1.0), (T, 1.0), *[(T, 1.0)] * int(rng.integers(3))]
        for eef, T in grips.items()
    }
    rows.append(_play(task, here, legs, rng))
    turned = poses.pose(poses.yaw_matrix(np.array(0.3)), np.array([0.02, 0.03, 0.15]))
    steps = np.arange(1, 25) / 24
    carried = tray @ poses.interpolate(np.eye(4), turned, steps)
    path = {eef: carried @ poses.inverse(tray) @ T for eef, T in grips.items()}
    rows.append({eef: _block(task, T, np.ones(len(T)), 100) for eef, T in path.items()})
    actions, states = [], [_flat(backend.sim_state(0))[None]]
    for commands in rows:
        result = backend.advance({0: commands})[0]
        actions.append(result.actions)
        states.append(np.concatenate([result.sim_states["time"], result.sim_states["state"]], axis=1))
    return Demo(
        name=f"demo_{seed}",
        path="made",
        format="seeds",
        environment=task.name,
        control_hz=20.0,
        actions=np.concatenate(actions).astype(float),
        states=np.concatenate(states),
    )


def _play(task: TaskSpec, start, legs: Mapping[str, Sequence[Leg]], rng: np.random.Generator) -> dict[str, Block]:
    """Return both arms' legs as blocks of one length; the arm that is done first stays where it is."""
    paths = {}
    for eef, todo in legs.items():
        here = start.T_world_eef[eef][0] if isinstance(start, SceneState) else start[eef]
        T, grip = [here[None]], [np.array([-1.0])]
        for goal, close in todo:
            n = 8 + int(rng.integers(6))
            T.append(poses.interpolate(here, goal, np.arange(1, n + 1) / n))
            grip.append(np.full(n, close))
            here = goal
        paths[eef] = np.concatenate(T), np.concatenate(grip)
    length = max(len(T) for T, _ in paths.values())
    return {
        eef: _block(
            task,
            np.concatenate([T, np.repeat(T[-1:], length - len(T), axis=0)]),
            np.concatenate([grip, np.repeat(grip[-1:], length - len(grip))]),
            0,
        )
        for eef, (T, grip) in paths.items()
    }


def _block(task: TaskSpec, T: NDArray, close: NDArray, at: int) -> Block:
    """Return a block; a hand of several dimensions moves each of them a little differently from step to step."""
    hand = task.robot.eefs["right"].gripper_action
    width = hand[1] - hand[0]
    wobble = 0.2 * np.sin(0.3 * (at + np.arange(len(T)))[:, None] + np.arange(width)) if width > 1 else 0.0
    return Block(T_world_eef=T, gripper=close[:, None] + wobble + np.zeros(width), action_noise=np.zeros((len(T), 6)))


def _raised(T: NDArray, height_m: float) -> NDArray:
    return poses.pose(T[:3, :3], T[:3, 3] + [0.0, 0.0, height_m])


def _flat(state: Mapping[str, NDArray]) -> NDArray:
    return np.concatenate([state["time"], state["state"]])


def demos(count: int = 4, task: TaskSpec = TASK) -> tuple[Demo, ...]:
    """Return a few demonstrations."""
    return tuple(demonstrate(task, seed=i) for i in range(count))


def with_hands(width: int, task: TaskSpec = TASK) -> TaskSpec:
    """Return the task for hands of that many dimensions."""
    return replace(task, robot=robot(width))


def quiet(task: TaskSpec = TASK, **changes) -> TaskSpec:
    """Return the task with no action noise and no jitter, and with other changes."""
    chains = {
        eef: tuple(replace(s, noise_normalised=0.0, end_jitter_steps=(0, 0)) for s in chain)
        for eef, chain in task.subtasks.items()
    }
    return replace(task, subtasks=chains, **changes)


def predicate(task: TaskSpec, name: str) -> Predicate:
    """Return a signal of the task."""
    return task.signals[name]
