"""What a stored demo is in its task's own names, however a backend came to know where hands and objects were."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from factory.demos import AnnotatedDemo, Demo
from factory.errors import DemoError
from factory.scene import SceneState
from factory.specs import TaskSpec

Array = NDArray[np.float64]


def annotated_by_states(
    demo: Demo, task: TaskSpec, scene: SceneState, *, targets: Mapping[str, Array], grippers: Mapping[str, Array]
) -> AnnotatedDemo:
    """Return a demo whose states were read; signals that the file does not store are evaluated.

    Args:
        demo: as stored, with T actions.
        task: its task.
        scene: over T states or T + 1.
        targets: end effector -> ``(T, 4, 4)`` poses that actions asked for, world frame.
        grippers: end effector -> ``(T, g)`` commands.
    """
    T, stored = len(demo), _stored_signals(demo, task)
    evaluated = {k: np.asarray(p(scene), bool)[:T] for k, p in task.signals.items() if k not in stored}
    return AnnotatedDemo(
        name=demo.name,
        T_world_eef={k: v[:T] for k, v in scene.T_world_eef.items()},
        T_world_eef_target=targets,
        gripper=grippers,
        T_world_object={k: v[:T] for k, v in scene.T_world_object.items()},
        signals={**stored, **evaluated},
        stored_signals=frozenset(stored),
        scene=scene,
        success=bool(task.success(scene)[-1]),
    )


def annotated_by_poses(
    demo: Demo,
    task: TaskSpec,
    *,
    eefs: Mapping[str, Array],
    targets: Mapping[str, Array],
    grippers: Mapping[str, Array],
) -> AnnotatedDemo:
    """Return a demo of which poses alone are stored; its other signals and its success stay unknown.

    Args:
        demo: as stored, with T actions.
        task: its task.
        eefs: end effector -> ``(T, 4, 4)`` measured poses, world frame.
        targets: see `annotated_by_states`; likewise grippers.
        grippers: see targets.

    Raises:
        DemoError: the pose of an object of the task is not stored.
    """
    objects = {task.aliases.get(k, k): v for k, v in demo.T_world_object.items()}
    if missing := set(task.scene.objects) - set(objects):
        raise DemoError(
            f"{demo.path}, {demo.name}: no poses of {sorted(missing)}; stored objects are {sorted(objects)}"
        )
    stored = _stored_signals(demo, task)
    return AnnotatedDemo(
        name=demo.name,
        T_world_eef=eefs,
        T_world_eef_target=targets,
        gripper=grippers,
        T_world_object={name: objects[name] for name in task.scene.objects},
        signals=stored,
        stored_signals=frozenset(stored),
    )


def _stored_signals(demo: Demo, task: TaskSpec) -> dict[str, NDArray[np.bool_]]:
    named = {task.aliases.get(k, k): v for k, v in demo.signals.items()}
    return {k: v for k, v in named.items() if k in task.signals}
