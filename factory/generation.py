"""The recipe: one attempt as a generator of moves. It knows no simulator, no clock and no files.

Every arm walks its own chain of subtasks at its own pace; all share one clock. The generator resumes when some arm's
block has ended, or its wait for another arm, with the scene as it is then.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.arms import Arm, symmetry
from factory.constraints import Coordination, Ordering, position
from factory.coordination import Shared, share
from factory.diagnosis import Failure
from factory.retargeting import SourceUse, sets_off
from factory.scene import SceneState
from factory.selection import SourceSet, drawn_bounds, select_source
from factory.sim import Block, Commands, Hold
from factory.specs import GenerationSpec, TaskSpec
from factory.streams import Streams
from factory.transit import Survey, TransitUse

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ConstraintUse:
    """How a constraint between arms was carried out.

    Attributes:
        kind: which of the two; the fields that follow the subtasks belong to coordination alone.
        subtasks: end effector -> name of its subtask; of an ordering, the one that waits is the second.
        first_step: control step of the episode at which the first arm began, or the waiting subtask did.
        waited_steps: end effector -> control steps it waited for another: before it began, and on the way.
        scheme: as carried out.
        demo_name: the source that all follow.
        xyz_quat_wxyz: the shared transform, noise included: metres, quaternion w first, world frame.
        shift_m: displacement drawn, per axis; likewise the turn, a rotation vector.
        turn_rad: see shift_m.
        together_step: control step at which the arms began to move as one; None when it never came to that.
    """

    kind: Literal["coordination", "ordering"]
    subtasks: Mapping[str, str]
    first_step: int
    waited_steps: Mapping[str, int]
    scheme: str = ""
    demo_name: str = ""
    xyz_quat_wxyz: tuple[float, ...] = ()
    shift_m: tuple[float, ...] = ()
    turn_rad: tuple[float, ...] = ()
    together_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Move:
    """What the attempt wants done next.

    Attributes:
        commands: per end effector, all of equal length.
        phase: "settle" is not part of the episode; "work" follows sources; "hold" waits to see success last.
        subtask: per end effector, the index of the subtask these steps belong to; waiting belongs to what it is for.
        sources: every piece of a demo used so far.
        ahead: per end effector, all that is left of its present subtask, these steps included unless it holds; none
            when it has not begun, has finished, settles or holds at the end.
        waiting: end effectors that have not begun their subtask yet -> what they wait for.
        constraints: how those met so far were carried out.
        transits: bridges planned so far, where they were.
    """

    commands: Commands
    phase: Literal["settle", "work", "hold"]
    subtask: dict[str, int]
    sources: tuple[SourceUse, ...]
    ahead: Mapping[str, Block] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[ConstraintUse, ...] = ()
    transits: tuple[TransitUse, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.commands.values())))


def attempt(
    task: TaskSpec, sources: SourceSet, spec: GenerationSpec, streams: Streams, survey: Survey | None = None
) -> Generator[Move, SceneState, Failure | None]:
    """Yield the moves of one attempt; send back the scene after each, leading axis of any length, newest last.

    Returns None when every arm has played its chain, or what kept the arms from going on: a deadlock that was not seen
    when the task was made, or no way to a segment.

    Args:
        task: what to do.
        sources: demos with their cuts; see `sources.check_sources`.
        spec: settings.
        streams: the attempt's randomness.
        survey: what planned transit asks for its surroundings, see `transit`; bridges are straight without.
    """
    eefs = tuple(task.subtasks)
    scene = yield Move(
        commands={eef: Hold(steps=max(task.settle_steps, 1)) for eef in eefs},
        phase="settle",
        subtask=dict.fromkeys(eefs, 0),
        sources=(),
    )
    crew = _Crew(task, sources, spec, streams, survey)
    step = 0
    while True:
        crew.begin(scene, step)
        if (blocked := crew.blocked()) is not None:
            # A moment is played, so that there is something to see of an attempt that is stuck at once.
            yield crew.stand(step)
            return blocked
        if all(arm.done for arm in crew.arms.values()):
            break
        length = crew.steps(step)
        if length is None:
            return crew.deadlock(step)
        subtask = {eef: arm.subtask for eef, arm in crew.arms.items()}
        ahead = {eef: arm.pending for eef, arm in crew.arms.items() if arm.pending is not None}
        waiting = crew.waiting(step)
        commands = {eef: arm.take(length, step) for eef, arm in crew.arms.items()}
        scene = yield Move(
            commands=commands,
            phase="work",
            subtask=subtask,
            sources=crew.used,
            ahead=ahead,
            waiting=waiting,
            constraints=crew.met,
            transits=crew.planned,
        )
        step += length
    yield Move(
        commands={eef: Hold(steps=max(task.success_hold_steps, 1)) for eef in eefs},
        phase="hold",
        subtask={eef: arm.last for eef, arm in crew.arms.items()},
        sources=crew.used,
        constraints=crew.met,
        transits=crew.planned,
    )
    return None


@dataclass(kw_only=True)
class _Bond:
    """A coordination in progress."""

    coordination: Coordination
    shared: Shared
    demo_name: str
    first_step: int
    together_step: int | None = None
    waited: dict[str, int] = field(default_factory=dict)

    def record(self) -> ConstraintUse:
        return ConstraintUse(
            kind="coordination",
            subtasks=dict(self.coordination.subtasks),
            first_step=self.first_step,
            waited_steps=dict(self.waited),
            scheme=self.shared.scheme,
            demo_name=self.demo_name,
            xyz_quat_wxyz=tuple(poses.xyz_quat_wxyz_from_pose(self.shared.T_shared).tolist()),
            shift_m=tuple(self.shared.shift_m.tolist()),
            turn_rad=tuple(self.shared.turn_rad.tolist()),
            together_step=self.together_step,
        )


class _Crew:
    """All arms of one attempt, and what holds between them."""

    def __init__(
        self, task: TaskSpec, sources: SourceSet, spec: GenerationSpec, streams: Streams, survey: Survey | None
    ) -> None:
        self._task, self._sources, self._spec, self._streams, self._survey = task, sources, spec, streams, survey
        self.arms = {eef: Arm(eef=eef, last=len(chain) - 1) for eef, chain in task.subtasks.items()}
        self._bounds = drawn_bounds(sources, streams.selection)
        self._chosen: dict[str, int] = {}
        self._bonds: dict[int, _Bond] = {}
        self._orderings: dict[int, ConstraintUse] = {}

    @property
    def used(self) -> tuple[SourceUse, ...]:
        """Every piece of a demo used so far."""
        return tuple(use for arm in self.arms.values() for use in arm.used)

    @property
    def planned(self) -> tuple[TransitUse, ...]:
        """Every bridge planned so far."""
        return tuple(use for arm in self.arms.values() for use in arm.planned)

    @property
    def met(self) -> tuple[ConstraintUse, ...]:
        """How constraints met so far were carried out."""
        bonds = {i: bond.record() for i, bond in self._bonds.items()}
        return tuple(use for _, use in sorted({**bonds, **self._orderings}.items()))

    def begin(self, scene: SceneState, step: int) -> None:
        """Let every arm that waits for nothing begin its next subtask, and arms that have met go on together."""
        for eef, arm in self.arms.items():
            if not arm.idle or self._why(eef, step):
                continue
            found = self._coordination(eef)
            if found is None:
                self._begin_alone(arm, scene, step)
                continue
            i, coordination = found
            # With a synchronised start, nothing to wait for means that all of them are ready.
            for name in coordination.subtasks if coordination.synchronise_start else (eef,):
                self._begin_shared(i, coordination, self.arms[name], scene, step)
        for bond in self._bonds.values():
            partners = [self.arms[eef] for eef in bond.shared.subtasks]
            there = all(
                arm.subtask == bond.shared.subtasks[arm.eef] and arm.pending is not None and not arm.ready_steps
                for arm in partners
            )
            if there and bond.together_step is None:
                bond.together_step = step
                for arm in partners:
                    bond.waited[arm.eef] = arm.waited
                    arm.together = 0

    def steps(self, step: int) -> int | None:
        """Return how many steps all arms go before something has to be decided; None when none of them ever will."""
        ready = [arm.ready_steps for arm in self.arms.values() if arm.ready_steps]
        delays = [left for arm in self.arms.values() if arm.idle and (left := self._delay(arm.eef, step))]
        return min(ready + delays, default=None)

    def waiting(self, step: int) -> dict[str, str]:
        """Return what each arm waits for that has not begun its next subtask."""
        return {eef: self._why(eef, step) for eef, arm in self.arms.items() if arm.idle}

    def deadlock(self, step: int) -> Failure:
        """Return the failure of arms that wait for each other."""
        reasons = {eef: self._why(eef, step) or "its partners" for eef, arm in self.arms.items() if not arm.done}
        eef = next(iter(reasons))
        said = "; ".join(
            f"{e} waits at {self._task.subtasks[e][self.arms[e].subtask].name!r} for {why}"
            for e, why in reasons.items()
        )
        subtask = self._task.subtasks[eef][self.arms[eef].subtask].name
        return Failure(subtask=subtask, eef=eef, reason="constraint_deadlock", detail=f"at step {step}: {said}")

    def blocked(self) -> Failure | None:
        """Return the failure of an arm that found no way to its next segment."""
        for eef, arm in self.arms.items():
            if arm.blocked:
                subtask = self._task.subtasks[eef][arm.subtask].name
                return Failure(subtask=subtask, eef=eef, reason="no_way", detail=arm.blocked)
        return None

    def stand(self, step: int) -> Move:
        """Return a move in which every arm stays where it is."""
        return Move(
            commands={eef: Hold(steps=1) for eef in self.arms},
            phase="work",
            subtask={eef: arm.subtask for eef, arm in self.arms.items()},
            sources=self.used,
            waiting=self.waiting(step),
            constraints=self.met,
            transits=self.planned,
        )

    # ---- what an arm waits for ---------------------------------------------------------------------------------------

    def _why(self, eef: str, step: int) -> str:
        """Return what keeps an idle arm from beginning its next subtask; empty when nothing does."""
        found = self._coordination(eef)
        if found is not None and found[1].synchronise_start:
            late = [
                name
                for name, subtask in found[1].subtasks.items()
                if not (self.arms[name].idle and self._at(name, subtask))
            ]
            return f"{', '.join(late)} to be ready to act as one" if late else ""
        for _, ordering in self._orderings_of(eef):
            first, name = ordering.first
            k = position(self._task.subtasks, first, name)
            if len(self.arms[first].finished) <= k:
                return f"{first} to finish {name!r}"
            if left := self._delay(eef, step):
                return f"{left} more steps after {first} finished {name!r}"
        return ""

    def _delay(self, eef: str, step: int) -> int:
        """Return how long an idle arm still has to wait after what it waits for is over; 0 when that is not over."""
        left = 0
        for _, ordering in self._orderings_of(eef):
            first, name = ordering.first
            finished = self.arms[first].finished
            k = position(self._task.subtasks, first, name)
            if len(finished) > k:
                left = max(left, finished[k] + ordering.min_delay_steps - step)
        return left

    def _at(self, eef: str, subtask: str) -> bool:
        return self._task.subtasks[eef][self.arms[eef].subtask].name == subtask

    def _coordination(self, eef: str) -> tuple[int, Coordination] | None:
        for i, constraint in enumerate(self._sources.constraints):
            if isinstance(constraint, Coordination) and self._at(eef, constraint.subtasks.get(eef, "")):
                return i, constraint
        return None

    def _orderings_of(self, eef: str) -> Iterator[tuple[int, Ordering]]:
        for i, constraint in enumerate(self._sources.constraints):
            if isinstance(constraint, Ordering) and constraint.then[0] == eef and self._at(*constraint.then):
                yield i, constraint

    # ---- beginning ---------------------------------------------------------------------------------------------------

    def _begin_alone(self, arm: Arm, scene: SceneState, step: int) -> None:
        for i, ordering in self._orderings_of(arm.eef):
            self._orderings[i] = ConstraintUse(
                kind="ordering",
                subtasks=dict((ordering.first, ordering.then)),
                first_step=step,
                waited_steps={arm.eef: arm.waited},
            )
        demo = self._choose(arm.eef, scene)
        start, stop = (int(v) for v in self._bounds[arm.eef][demo, arm.subtask])
        if any(self._orderings_of(arm.eef)):
            # It has waited already; the wait in the demo, at the segment's beginning, would be a second one.
            start = min(sets_off(self._sources[demo].demo, arm.eef, start, stop), stop - 1)
        self._begin(arm, scene, step, demo, (start, stop), None)

    def _begin_shared(self, i: int, coordination: Coordination, arm: Arm, scene: SceneState, step: int) -> None:
        if i not in self._bonds:
            self._bonds[i] = self._bond(coordination, arm.eef, scene, step)
        bond = self._bonds[i]
        self._chosen[arm.eef] = bond.shared.demo
        start, stop = (int(v) for v in self._bounds[arm.eef][bond.shared.demo, arm.subtask])
        self._begin(arm, scene, step, bond.shared.demo, (start, stop), bond.shared)

    def _bond(self, coordination: Coordination, eef: str, scene: SceneState, step: int) -> _Bond:
        chains = self._task.subtasks
        lead = next(iter(coordination.subtasks))
        at = {name: position(chains, name, subtask) for name, subtask in coordination.subtasks.items()}
        demo = self._choose(lead, scene, at[lead])
        segments = {name: (int(a), int(b)) for name, k in at.items() for a, b in [self._bounds[name][demo, k]]}
        meet = max(start for start, _ in segments.values())
        names = self._task.scene.objects if self._spec.use_symmetry else ()
        shared = share(
            coordination,
            chains,
            self._sources[demo],
            demo=demo,
            segments=segments,
            T_world_object={name: T[-1] for name, T in scene.T_world_object.items()},
            yaw_symmetry={name: self._task.scene.objects[name].yaw_symmetry for name in names},
            untransformed=self._spec.untransformed,
            began=meet if coordination.synchronise_start else segments[eef][0],
            draw=self._streams.coordination.normal(size=6),
        )
        name = self._sources[demo].demo.name
        return _Bond(coordination=coordination, shared=shared, demo_name=name, first_step=step)

    def _begin(
        self, arm: Arm, scene: SceneState, step: int, demo: int, bounds: tuple[int, int], shared: Shared | None
    ) -> None:
        arm.begin(
            self._task,
            self._sources,
            self._spec,
            scene,
            demo=demo,
            bounds=bounds,
            step=step,
            shared=shared,
            streams=self._streams,
            survey=self._survey,
        )

    def _choose(self, eef: str, scene: SceneState, subtask: int | None = None) -> int:
        """Return the demo that an arm follows in its next subtask, or in one that it will come to."""
        k = self.arms[eef].subtask if subtask is None else subtask
        per = self._spec.select_per
        key = eef if per == "arm" else ""
        if per != "subtask":
            settled = self._chosen.get(eef, self._chosen.get(key))
            if settled is not None:
                return settled
        link = self._sources.chains[eef][k]
        T_world_object = scene.T_world_object[link.object_ref][-1] if link.object_ref else None
        chosen = select_source(
            self._sources,
            self._bounds[eef][:, k, 0],
            eef=eef,
            subtask=k,
            T_world_object=T_world_object,
            T_world_eef=scene.T_world_eef[eef][-1],
            yaw_symmetry=symmetry(self._task, self._spec, link.object_ref),
            rng=self._streams.selection,
        )
        self._chosen[key] = chosen
        return chosen
