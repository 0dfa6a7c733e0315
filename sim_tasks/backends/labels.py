"""What each geom of a compiled scene is to its task: the names and ids that segmentation shows.

Ids depend on the task alone, never on an episode: the room is 0, what every scene has comes first, arms and grippers
follow by end effector, and the task's objects start at 16, in the order the task names them.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.errors import SpecError, unknown_name
from factory.specs import EefSpec, TaskSpec

import mujoco  # isort: skip - after robosuite, which chooses MUJOCO_GL when nobody has

_ALWAYS = ("background", "table", "other", "robot_body")
"""Ids 0 to 3: floor, walls and nothing at all; the table; what the task does not name; the robot without its arms."""
_FIRST_OBJECT = 16
"""Objects keep their ids when a robot has another number of arms, up to six."""
_MOST = 255
"""Drawn as one colour channel, where 0 means that nothing was drawn."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Ids by name, and by geom.

    Attributes:
        legend: name -> id; "background" is 0.
        of_geom: the id of every geom of the model.
    """

    legend: dict[str, int]
    of_geom: tuple[int, ...]


def label_geoms(model: Any, task: TaskSpec) -> Labels:
    """Return the labels of a task's compiled scene.

    A geom belongs to the nearest body above it that is an object's, a gripper's or an arm's.

    Raises SpecError when an object is not in the scene, or has a name that the legend keeps for itself.
    """
    legend = _legend(task)
    roots = {b: legend["other"] for b in range(1, model.nbody) if model.body_parentid[b] == 0}
    if (table := mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "table")) >= 0:
        roots[table] = legend["table"]
    for name, eef in task.robot.eefs.items():
        arm, gripper = _arm(model, eef)
        roots |= {_path(model, arm)[0]: legend["robot_body"]}
        roots |= {arm: legend[f"{name}_arm"], gripper: legend[f"{name}_gripper"]}
    single: dict[int, int] = {}
    for name, spec in task.scene.objects.items():
        for part in (f"body:{spec.body}", *spec.contact):
            kind, _, called = part.partition(":")
            into = roots if kind == "body" else single
            into[_find(model, kind, called, f"task {task.name!r}, object {name!r}")] = legend[name]
    of_body = np.zeros(model.nbody, int)
    for body in range(1, model.nbody):  # parents come before their children
        of_body[body] = roots.get(body, of_body[model.body_parentid[body]])
    ids = [single.get(geom, int(of_body[model.geom_bodyid[geom]])) for geom in range(model.ngeom)]
    return Labels(legend=legend, of_geom=tuple(ids))


def _legend(task: TaskSpec) -> dict[str, int]:
    parts = [*_ALWAYS, *(f"{eef}_{part}" for eef in task.robot.eefs for part in ("arm", "gripper"))]
    legend = {name: number for number, name in enumerate(parts)}
    for number, name in enumerate(task.scene.objects, start=_FIRST_OBJECT):
        if name in legend or number >= _MOST:
            raise SpecError(f"task {task.name!r}: object {name!r} cannot be in a segmentation that has {list(legend)}")
        legend[name] = number
    return legend


def _arm(model: Any, eef: EefSpec) -> tuple[int, int]:
    """Return the first body of an arm that moves, and the body that carries all fingers."""
    arm = [_owner(model, joint) for joint in eef.arm_joints]
    shared = [_path(model, _owner(model, joint)) for joint in eef.gripper_joints]
    carrier = [bodies[0] for bodies in zip(*shared, strict=False) if len(set(bodies)) == 1][-1]
    return arm[0], carrier


def _path(model: Any, body: int) -> list[int]:
    """Return the bodies from the world, which is left out, down to `body`."""
    path: list[int] = []
    while body > 0:
        path.append(body)
        body = int(model.body_parentid[body])
    return path[::-1]


def _owner(model: Any, joint: str) -> int:
    return int(model.jnt_bodyid[_find(model, "joint", joint, "segmentation")])


def _find(model: Any, kind: str, name: str, where: str) -> int:
    kinds = {"body": mujoco.mjtObj.mjOBJ_BODY, "geom": mujoco.mjtObj.mjOBJ_GEOM, "joint": mujoco.mjtObj.mjOBJ_JOINT}
    number = mujoco.mj_name2id(model, kinds[kind], name)
    if number < 0:
        counts: dict[str, int] = {"body": model.nbody, "geom": model.ngeom, "joint": model.njnt}
        known = [getattr(model, kind)(i).name for i in range(counts[kind])]
        raise SpecError(f"{where}: " + unknown_name(kind, name, known))
    return number
