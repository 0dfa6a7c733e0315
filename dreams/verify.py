"""Carries a dream's labels out in the simulator, from the very state that its first picture shows.

A video that looks right may show what no robot can do. So what it is labelled with is executed: as actions one after
the other (open loop), or as poses that the hands are sent after (tracked). What comes out is a fact, with true states
and true actions, whatever the dream showed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreams.execution import MODES, Execution, Mode, execute
from dreams.lag import Lag, default_lag
from dreams.motion import Labels, hands_of, names, parted, poses_of
from factory import poses
from factory.episodes import Episode
from factory.errors import FactoryError, SpecError
from factory.recording import episode_of
from factory.replay import AttemptResult
from factory.scene import Predicate, SceneState
from factory.sim import SimBackend, Snapshot
from factory.specs import GenerationSpec, TaskSpec

Array = NDArray[np.float64]
Tier = Literal["executed_success", "executed_failure", "not_replayable"]
TIERS: tuple[Tier, ...] = ("executed_success", "executed_failure", "not_replayable")
VERSION = "verify/1"

_APART_M = 0.05
"""Labelled poses that begin farther than this from the hand are of another start: a grown-up labeller's error at a
known pose is a centimetre, and two starts of one task have their hands this far apart at most by chance."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of carrying labels out.

    Attributes:
        tier: success must hold through the whole final hold to be one.
        reason: why not, in words; empty for a success.
        mode: how.
        touched: success was true at some step.
        off_m: root mean square distance between where the labels say a hand was and where it was, metres, over the
            labelled steps and all hands; NaN where nothing was executed.
        clipped: share of labelled steps at which some hand was asked for more than its controller takes.
        execution: all there is to draw, store and learn from; None for what is not replayable.
        version: of these rules.
    """

    tier: Tier
    reason: str = ""
    mode: Mode
    touched: bool = False
    off_m: float = float("nan")
    clipped: float = float("nan")
    execution: Execution | None = None
    version: str = VERSION

    def __post_init__(self) -> None:
        if (self.tier == "executed_success") == bool(self.reason):
            raise SpecError(f"a verification that is {self.tier} with reason {self.reason!r}")
        if (self.tier == "not_replayable") != (self.execution is None):
            raise SpecError(f"a verification that is {self.tier} has an execution exactly when something was executed")


def verify(
    labels: Labels,
    start: Snapshot | None,
    backend: SimBackend,
    *,
    model_sha: str,
    mode: Mode = "tracked",
    success: Predicate | None = None,
    hold_steps: int | None = None,
    lag: Lag | None = None,
) -> Verification:
    """Return what happens when a dream's labels are carried out; never raises for what the labels or the start are.

    The same arguments give the same bits on a bitwise backend. Environment 0 of the backend is used.

    Args:
        labels: what the dream's hands did.
        start: the state that the first picture shows; None where nobody knows it.
        backend: the simulator of the task.
        model_sha: the scene that `start` was taken in: "model_sha" of its backend's `describe()`.
        mode: "open_loop" plays actions computed from the labels alone; "tracked" sends the hands after labelled poses,
            so that a hand that was held up still arrives.
        success: what the instruction asks for; the task's own by default.
        hold_steps: how long it must stay true after the last label; the task's own by default.
        lag: how far a hand is behind what it is told; by default as measured for this kind of controller.
    """
    if mode not in MODES:
        raise SpecError(f"verification mode {mode!r}; known: {', '.join(MODES)}")
    task = backend.task
    hold = task.success_hold_steps if hold_steps is None else hold_steps
    if hold < 1:
        raise SpecError(f"success must hold for 1 step at least, not {hold}")
    if start is None:
        return _refused("its start is not known: the first frame has no simulator state", mode)
    if why := _unfit(labels, backend, model_sha):
        return _refused(why, mode)
    try:
        scene = backend.restore(0, start)
        again = backend.snapshot(0).integration
    except (FactoryError, ValueError, TypeError, KeyError, IndexError) as error:
        return _refused(f"its start does not load into this scene: {error}", mode)
    if again.shape != start.integration.shape or not np.array_equal(again, start.integration):
        return _refused("its start does not load into this scene: the state read back is another one", mode)
    labelled = _poses(labels, scene, task)
    if why := _elsewhere(labelled, scene):
        return _refused(why, mode)
    run = execute(
        labelled,
        {eef: part[:, 6:] for eef, part in parted(labels.motion, hands_of(task.robot)).items()},
        scene,
        backend,
        start=start,
        mode=mode,
        hold_steps=hold,
        lag=lag or default_lag(backend),
    )
    return _judged(run, labelled, success or task.success, mode, task)


def _refused(why: str, mode: Mode) -> Verification:
    return Verification(tier="not_replayable", reason=why, mode=mode)


def _unfit(labels: Labels, backend: SimBackend, model_sha: str) -> str:
    """Say why labels cannot be carried out in a scene, before anything is loaded; empty when they can."""
    here, hands = backend.describe().get("model_sha", ""), hands_of(backend.task.robot)
    if model_sha != here:
        return f"its start is of another scene ({model_sha[:12] or 'unnamed'}); this one is {here[:12]}"
    if labels.motion.shape[1] != len(names(hands)):
        return f"its labels have {labels.motion.shape[1]} numbers a step, {backend.task.robot.name} {len(names(hands))}"
    if labels.T_base_eef and set(labels.T_base_eef) != set(hands):
        return f"its labels have poses of {', '.join(labels.T_base_eef)}; the robot's hands are {', '.join(hands)}"
    arrays = {"motion": labels.motion, **(labels.T_base_eef or {})}
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            return f"its labels ({name}) are not finite from step {row} on"
    return ""


def _poses(labels: Labels, scene: SceneState, task: TaskSpec) -> dict[str, Array]:
    """Return each hand's labelled poses ``(T + 1, 4, 4)``, world frame."""
    in_base = labels.T_base_eef
    if not in_base:
        first = {eef: poses.inverse(scene.T_world_base[eef]) @ scene.T_world_eef[eef][0] for eef in task.robot.eefs}
        in_base = poses_of(labels.motion, first, hands_of(task.robot))
    return {eef: scene.T_world_base[eef] @ T for eef, T in in_base.items()}


def _elsewhere(labelled: Mapping[str, Array], scene: SceneState) -> str:
    for eef, T in labelled.items():
        metres = float(np.linalg.norm(T[0, :3, 3] - scene.T_world_eef[eef][0, :3, 3]))
        if metres > _APART_M:
            return f"its labels begin {metres:.3f} m from where the {eef} hand is at the start, {_APART_M} m at most"
    return ""


def _judged(
    run: Execution, labelled: Mapping[str, Array], success: Predicate, mode: Mode, task: TaskSpec
) -> Verification:
    true, hold = np.asarray(success(run.scene), bool)[1:], run.hold_steps
    held, touched = hold > 0 and bool(true[-hold:].all()), bool(true.any())
    if held:
        reason = ""
    elif not hold:
        reason = f"the simulation diverged at step {len(run)}"
    else:
        reason = f"success did not hold for the last {hold} steps" if touched else "success was never true"
    n = min(len(next(iter(labelled.values()))) - 1, len(run))
    off = [run.scene.T_world_eef[eef][: n + 1, :3, 3] - T[: n + 1, :3, 3] for eef, T in labelled.items()]
    arms = [run.actions[:n, slice(*spec.arm_action)] for spec in task.robot.eefs.values()]
    full = [np.abs(arm).max(axis=1, initial=0.0) >= 1.0 for arm in arms]
    return Verification(
        tier="executed_success" if held else "executed_failure",
        reason=reason,
        mode=mode,
        touched=touched,
        off_m=float(np.sqrt(np.mean([(each**2).sum(axis=1) for each in off]))),
        clipped=float(np.any(full, axis=0).mean()) if n else 0.0,
        execution=run,
    )


def episode_of_verification(
    verification: Verification,
    task: TaskSpec,
    *,
    index: int,
    instruction: str,
    provenance: Mapping[str, Any],
    executor: Mapping[str, str],
) -> Episode:
    """Return what was executed as an episode, with the columns of every other episode, from true states and actions.

    It has no subtasks: a dream says nothing of them. A failure is an episode too, marked as one.

    Args:
        verification: of which something was executed.
        task: whose robot did it.
        index: the episode's number among its dreams.
        instruction: what it is filed under.
        provenance: JSON-ready facts about the dream; what was verified is added under "verification".
        executor: what executed it: `describe()` of the backend.

    Raises:
        SpecError: nothing was executed.
    """
    run = verification.execution
    if run is None:
        raise SpecError(f"there is no episode of a dream that is {verification.tier}: {verification.reason}")
    attempt = AttemptResult(
        index=index,
        held=verification.tier == "executed_success",
        touched=verification.touched,
        failure=None,
        sources=(),
        placements={},
        start=run.start,
        scene=run.scene,
        sim_states=run.sim_states,
        actions=run.actions,
        T_world_eef_commanded=run.T_world_eef_commanded,
        T_world_eef_target=run.T_world_eef_target,
        subtask={eef: np.zeros(len(run), np.int64) for eef in task.robot.eefs},
        hold_steps=run.hold_steps,
    )
    episode = episode_of(attempt, task, GenerationSpec(), executor)
    return replace(
        episode,
        instruction=instruction,
        columns={name: each for name, each in episode.columns.items() if not name.startswith("subtask_index")},
        subtasks=(),
        provenance={
            **provenance,
            "robot": task.robot.name,
            "executor": dict(executor),
            "hold_steps": run.hold_steps,
            "verification": record_of(verification),
        },
    )


def record_of(verification: Verification) -> dict[str, Any]:
    """Return what a dataset remembers of a verification, JSON-ready; numbers that are not known are None."""
    known = {"off_m": verification.off_m, "clipped": verification.clipped}
    return {
        "tier": verification.tier,
        "reason": verification.reason,
        "mode": verification.mode,
        "touched": verification.touched,
        **{name: float(value) if np.isfinite(value) else None for name, value in known.items()},
        "version": verification.version,
    }


def counted_tiers(verifications: Sequence[Verification]) -> dict[Tier, int]:
    """Return how many of each tier there are, all tiers named."""
    return {tier: sum(each.tier == tier for each in verifications) for tier in TIERS}
