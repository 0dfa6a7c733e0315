"""What is measured: each row is one set of attempts, written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MIMICGEN: Mapping[str, Any] = {}
"""`GenerationSpec()` itself: the hand's pose is kept, bridges have five steps, objects have no symmetry, noise 0.05."""
OURS: Mapping[str, Any] = {"use_symmetry": True, "paced_bridge": True}
"""What `factory generate` does by default."""
CONTROL: Mapping[str, Any] = {**MIMICGEN, "untransformed": True, "selection": {"strategy": "random"}}
"""A random source demonstration played where it was recorded."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: unique.
        group: heading it belongs to.
        task: task name; likewise variant.
        robot: who does it; empty for the task's own robot.
        variant: reset distribution.
        demos: files below the folder of outside demonstrations; empty for the shipped seeds.
        attempts: how many, indices from 0.
        settings: fields of `GenerationSpec`.
        target: published or required rate in percent, if any.
        counting: which count is compared with the target.
        fault: injected fault, if any; see `faults.py`.
        stratified: of a family of tasks every one is measured, attempts dealt out in turn.
        replay: so many kept episodes are played again in another environment and compared bit by bit.
        beside: name of the row on the same starts that this one is compared with, pair by pair.
    """

    name: str
    group: str
    task: str
    variant: str = "D0"
    demos: tuple[str, ...] = ()
    attempts: int = 200
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = None
    counting: str = "held"
    fault: str = ""
    robot: str = ""
    stratified: bool = False
    replay: int = 0
    beside: str = ""


LIFT_DEMOS = ("robosuite/1710619576_972822_demo.hdf5", "robosuite/lift_demo.hdf5")
STACK_DEMO = ("robosuite/stack_panda_demo.hdf5",)
MIMICGEN_STACK, MIMICGEN_SQUARE = ("mimicgen_sources/stack_src.hdf5",), ("mimicgen_sources/square_src.hdf5",)

SEED_TARGETS = (
    ("stack", "D0", 94.0),
    ("stack", "D1", 90.0),
    ("stack_three", "D0", 71.0),
    ("square", "D0", 74.0),
    ("square", "D1", 49.0),
    ("square", "D2", 32.0),
    ("can", "D0", 85.0),
    ("door", "D0", 85.0),
)


def _peer(task: str, demos: tuple[str, ...], target: float) -> list[Row]:
    group = "MimicGen's own source files"
    common = {"group": group, "task": task, "demos": demos}
    symmetry, paced = {"use_symmetry": True}, {"paced_bridge": True}
    return [
        Row(name=f"peer {task}: MimicGen's settings", settings=MIMICGEN, target=target, counting="touched", **common),
        Row(name=f"peer {task}: + symmetry", settings=symmetry, **common),
        Row(name=f"peer {task}: + paced bridges", settings=paced, **common),
        Row(name=f"peer {task}: + both (our default)", settings=OURS, **common),
    ]


def _seeds(task: str, variant: str, target: float) -> list[Row]:
    group = "Shipped seeds"
    common = {"group": group, "task": task, "variant": variant}
    label = f"seeds {task} {variant}"
    return [
        Row(name=f"{label}: noise 0.05", settings=OURS, target=target, **common),
        Row(name=f"{label}: no noise", settings={**OURS, "noise_normalised": 0.0}, target=target, **common),
        Row(name=f"{label}: untransformed replay", settings=CONTROL, attempts=100, **common),
    ]


def _automatic(label: str, task: str, demos: tuple[str, ...]) -> list[Row]:
    common = {"group": "Automatic segmentation", "task": task, "demos": demos, "attempts": 100}
    return [
        Row(name=f"auto {label}: stored or predicate signals", settings=OURS, **common),
        Row(name=f"auto {label}: automatic", settings={**OURS, "segmentation": "automatic"}, **common),
    ]


def _faults() -> list[Row]:
    kinds = ("object_removed", "gripper_disabled", "target_out_of_reach", "object_pushed_away")
    return [
        Row(name=f"fault {k}", group="Injected faults", task="stack", attempts=100, settings=OURS, fault=k, target=90.0)
        for k in kinds
    ]


TWO_HANDED = (
    "two_arm_lift",
    "two_arm_handover",
    "two_arm_threading",
    "two_arm_transport",
    "two_arm_three_piece_assembly",
    "two_arm_lift_tray",
    "two_arm_box_cleanup",
    "two_arm_drawer_cleanup",
    "gr1_pick_place",
    "gr1_can_sort",
    "gr1_pouring",
    "gr1_coffee",
)


def _two_handed(task: str) -> list[Row]:
    """Return a task's rows: the success asked for, and beside it a random source played where it was recorded."""
    common: dict[str, Any] = {"group": "Two arms, hands and a humanoid", "task": task}
    # A humanoid's episode takes three CPU-seconds, a second time three more.
    replays = 50 if task.startswith("gr1_") else 200
    if task == "gr1_pick_place":
        common |= {"stratified": True, "attempts": 216}
    return [
        row
        for variant, target in (("D0", 60.0), ("D1", 40.0))
        for row in (
            Row(
                name=f"{task} {variant}",
                variant=variant,
                settings=OURS,
                target=target,
                replay=replays if variant == "D0" else 0,
                **common,
            ),
            Row(
                name=f"{task} {variant}: untransformed replay",
                variant=variant,
                settings=CONTROL,
                **{**common, "attempts": common.get("attempts", 200) // 2},
            ),
        )
    ]


def _without(task: str, label: str, variant: str = "D0", **settings: Any) -> Row:
    """Return an ablation, on the same starts as the task's own row."""
    return Row(
        name=f"{task} {variant}: {label}",
        group="What the constraints are for",
        task=task,
        variant=variant,
        settings={**OURS, **settings},
        beside=f"{task} {variant}",
    )


def _transits(task: str) -> list[Row]:
    """Return planned transit, and beside it straight bridges on the same starts."""
    common: dict[str, Any] = {"group": "Planned transit", "task": task}
    return [
        Row(
            name=f"{task} D0: planned transit",
            settings={**OURS, "transit": "planned"},
            beside=f"{task} D0: straight transit",
            **common,
        ),
        Row(name=f"{task} D0: straight transit", settings=OURS, **common),
    ]


def _transfers(task: str) -> list[Row]:
    """Return a Panda's demonstrations carried to four other arms."""
    group = "Transfer to other robots"
    return [
        Row(name=f"transfer {task} to {robot}", group=group, task=task, attempts=50, settings=OURS, robot=robot)
        for robot in ("UR5e", "Sawyer", "IIWA", "Kinova3")
    ]


ROWS: tuple[Row, ...] = (
    Row(
        name="human lift",
        group="Human demonstrations",
        task="lift",
        demos=LIFT_DEMOS,
        attempts=100,
        settings=OURS,
        target=90.0,
    ),
    Row(
        name="human stack",
        group="Human demonstrations",
        task="stack",
        demos=STACK_DEMO,
        attempts=100,
        settings=OURS,
        target=60.0,
    ),
    *_peer("stack", MIMICGEN_STACK, 94.0),
    *_peer("square", MIMICGEN_SQUARE, 62.0),
    *(row for entry in SEED_TARGETS for row in _seeds(*entry)),
    # robosuite's own door range is so small that a replay where it was recorded opens it too: the wider one tells.
    Row(
        name="seeds door D1: noise 0.05", group="Shipped seeds", task="door", variant="D1", attempts=100, settings=OURS
    ),
    Row(
        name="seeds door D1: untransformed replay",
        group="Shipped seeds",
        task="door",
        variant="D1",
        attempts=100,
        settings=CONTROL,
    ),
    *_faults(),
    # Everywhere else the automatic cuts are equal to the stored ones, so the episodes are too; see `boundaries.py`.
    *_automatic("door seeds", "door", ()),
    *(row for task in ("stack", "square") for row in _transfers(task)),
    Row(
        name="transfer two_arm_lift_tray to GR1ArmsOnly",
        group="Transfer to other robots",
        task="two_arm_lift_tray",
        attempts=50,
        settings=OURS,
        robot="GR1ArmsOnly",
    ),
    *(row for task in TWO_HANDED for row in _two_handed(task)),
    *(row for task in ("stack/shelf", "can/posts", "stack_three") for row in _transits(task)),
    _without("two_arm_lift_tray", "no coordination", coordination="off", select_per="arm"),
    _without("gr1_pouring", "no ordering", ordering="off", select_per="arm"),
    _without("two_arm_handover", "transform", coordination="transform"),
    _without("two_arm_handover", "translate", coordination="translate"),
    _without("two_arm_handover", "no coordination", "D1", coordination="off", select_per="arm"),
    _without("two_arm_handover", "no noise", noise_normalised=0.0),
    _without("two_arm_handover", "random source", selection={"strategy": "random"}),
    _without("two_arm_lift", "no noise", noise_normalised=0.0),
)
