"""The tasks by name, written out, and those that other packages add.

A package adds a task through an entry point of group "trajectory_factory.tasks" that loads to a `TaskSpec`; its scene's
base may be an environment class of its own, "package.module:Class".
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from factory.errors import SpecError, unknown_name
from factory.specs import TaskSpec
from factory.transfer import task_for_robot
from sim_tasks.robots import STATIONS, find_robot
from sim_tasks.tasks import (
    can,
    clutter,
    door,
    gr1_can_sort,
    gr1_coffee,
    gr1_pick_place,
    gr1_pouring,
    isaac_gr1_nut_pouring,
    isaac_gr1_pick_place,
    isaac_stack,
    lift,
    square,
    stack,
    stack_three,
    tabletop,
    two_arm_box_cleanup,
    two_arm_drawer_cleanup,
    two_arm_handover,
    two_arm_lift,
    two_arm_lift_tray,
    two_arm_threading,
    two_arm_three_piece_assembly,
    two_arm_transport,
)

ENTRY_POINTS = "trajectory_factory.tasks"

TASKS: Mapping[str, TaskSpec] = {
    "lift": lift.TASK,
    "stack": stack.TASK,
    "stack_three": stack_three.TASK,
    "square": square.TASK,
    "can": can.TASK,
    "door": door.TASK,
    "tabletop": tabletop.TASK,
    "two_arm_lift": two_arm_lift.TASK,
    "two_arm_handover": two_arm_handover.TASK,
    "two_arm_threading": two_arm_threading.TASK,
    "two_arm_transport": two_arm_transport.TASK,
    "two_arm_three_piece_assembly": two_arm_three_piece_assembly.TASK,
    "two_arm_lift_tray": two_arm_lift_tray.TASK,
    "two_arm_box_cleanup": two_arm_box_cleanup.TASK,
    "two_arm_drawer_cleanup": two_arm_drawer_cleanup.TASK,
    "gr1_pick_place": gr1_pick_place.TASK,
    "gr1_can_sort": gr1_can_sort.TASK,
    "gr1_pouring": gr1_pouring.TASK,
    "gr1_coffee": gr1_coffee.TASK,
}

ISAAC_TASKS: Mapping[str, TaskSpec] = {
    "isaac_stack": isaac_stack.TASK,
    "isaac_gr1_pick_place": isaac_gr1_pick_place.TASK,
    "isaac_gr1_nut_pouring": isaac_gr1_nut_pouring.TASK,
}
"""Tasks of Isaac Lab: only a worker with the capability "isaac" can open them. `find_task` finds them."""

FAMILIES: Mapping[str, Mapping[str, TaskSpec]] = {
    "gr1_pick_place": gr1_pick_place.COMBINATIONS,
    "tabletop": tabletop.COMBINATIONS,
    **clutter.CLUTTERED,
}
"""Tasks that differ in what is where, and share their demonstrations: family -> its tasks by name, "FAMILY/...". The
family's own name is in `TASKS`; lists show that one, and `find_task` finds all."""


ISAAC_BASES = ("Isaac-", "IsaacContrib-")
"""What the names begin with under which Isaac Lab registers its environments."""


def find_task(name: str, robot: str = "") -> TaskSpec:
    """Return a task by name, done by its own robot, or by the one named.

    Raises:
        SpecError: no such task or robot, the robot cannot do the task, or the plug-in that offers it is broken.
    """
    if robot:
        return task_for_robot(find_task(name), find_robot(robot), STATIONS.get(robot))
    if name in TASKS or name in ISAAC_TASKS:
        return TASKS.get(name) or ISAAC_TASKS[name]
    family = FAMILIES.get(family_of(name), {})
    if name in family:
        return family[name]
    tasks, problems = _plugged_in()
    if name in tasks:
        return tasks[name]
    raise SpecError(" ".join([unknown_name("task", name, [*TASKS, *ISAAC_TASKS, *tasks, *family]), *problems]))


def views_of(name: str, robot: str = "") -> tuple[str, ...]:
    """Return the cameras a task names, see `TaskSpec.views`; none for a task or robot that is not here any more."""
    try:
        return find_task(name, robot).views
    except SpecError:
        return ()


def family_of(name: str) -> str:
    """Return the family's name of a task, its own if it belongs to none."""
    return name.partition("/")[0]


def all_tasks() -> Mapping[str, TaskSpec]:
    """Return the shipped tasks and every sound one of other packages; `plugin_problems` tells what is missing."""
    return {**TASKS, **_plugged_in()[0]}


def plugin_problems() -> tuple[str, ...]:
    """Return one sentence for each task plug-in that cannot be used, empty when all can."""
    return _plugged_in()[1]


def _plugged_in() -> tuple[dict[str, TaskSpec], tuple[str, ...]]:
    """Return the sound tasks of other packages, and one sentence for each that is not."""
    offers: dict[str, list[tuple[EntryPoint, TaskSpec]]] = {}
    problems: list[str] = []
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: (p.name, p.value)):
        try:
            task = _load(point)
        except SpecError as error:
            problems.append(_problem(point, str(error)))
        else:
            offers.setdefault(task.name, []).append((point, task))
    tasks: dict[str, TaskSpec] = {}
    for name, offered in offers.items():
        if name in TASKS or name in ISAAC_TASKS:
            problems += [_problem(point, f"the name {name!r} belongs to a shipped task") for point, _ in offered]
        elif len(offered) > 1:
            # Which of the two was meant cannot be known, and the order of installation must not decide.
            problems += [_problem(point, f"another plug-in offers the name {name!r} too") for point, _ in offered]
        else:
            tasks[name] = offered[0][1]
    return tasks, tuple(problems)


def _problem(point: EntryPoint, reason: str) -> str:
    return f"The task plug-in {point.name} = {point.value} cannot be used: {reason}."


def _load(point: EntryPoint) -> TaskSpec:
    try:
        task = point.load()
    except Exception as error:  # a stranger's module may fail in any way while it is imported
        raise SpecError(f"importing it failed with {type(error).__name__}: {error}") from error
    if not isinstance(task, TaskSpec):
        raise SpecError(f"it loads to a {type(task).__name__}, expected a TaskSpec")
    return task


def capability_of(task: TaskSpec) -> Literal["simulate", "isaac"]:
    """Return what a worker must be able to do to run a task: "isaac" for Isaac Lab's, "simulate" for all others.

    A base "package.module:function" opens an environment that Isaac Lab has not registered.
    """
    return "isaac" if task.scene.base.startswith(ISAAC_BASES) or ":" in task.scene.base else "simulate"
