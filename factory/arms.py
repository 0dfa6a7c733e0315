"""One arm's way through its chain of subtasks in one attempt: where it is, what it plays, and why it waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.coordination import Shared
from factory.retargeting import Source, SourceUse, bridged_block, carried_segment, noise_std
from factory.scene import SceneState
from factory.selection import SourceSet
from factory.sim import Block, Hold
from factory.specs import GenerationSpec, SubtaskSpec, TaskSpec
from factory.streams import Streams
from factory.transit import Detour, Gauge, Survey, TransitUse, approach_rows, around

Array = NDArray[np.float64]


@dataclass(kw_only=True)
class Arm:
    """One arm's progress.

    Attributes:
        eef: which one.
        last: index of its last subtask.
        subtask: index of the one it plays, or is about to begin; the last when it has finished.
        pending: what is left of it; None when it has not begun, or nothing is left.
        together: how many of its last steps are played side by side with other arms, and not before they are there too.
        finished: step of the episode at which each subtask played so far was over.
        waited: steps it has waited since its last subtask was over: to begin, and on the way for the others.
        used: pieces of demos played.
        planned: bridges that a planner found.
        blocked: why it cannot go on: no way to its next segment was found.
    """

    eef: str
    last: int
    subtask: int = 0
    pending: Block | None = None
    together: int = 0
    finished: list[int] = field(default_factory=list)
    waited: int = 0
    used: list[SourceUse] = field(default_factory=list)
    planned: list[TransitUse] = field(default_factory=list)
    blocked: str = ""
    _T_last_target: Array | None = None
    _last_gripper: Array | None = None

    @property
    def done(self) -> bool:
        """Whether its chain is over."""
        return len(self.finished) > self.last

    @property
    def idle(self) -> bool:
        """Whether it could begin its next subtask, were it not for other arms."""
        return self.pending is None and not self.done

    @property
    def ready_steps(self) -> int:
        """How many steps it can play without another arm."""
        return 0 if self.pending is None else len(self.pending) - self.together

    def take(self, length: int, step: int) -> Block | Hold:
        """Return what it does for the next steps, from one step of the episode on: a hold when it waits."""
        if not self.ready_steps:
            self.waited += 0 if self.done else length
            return Hold(steps=length)
        block = self.pending
        assert block is not None  # noqa: S101 - for the type checker: steps are ready
        part = block.part(0, length)
        if length < len(block):
            self.pending = block.part(length, len(block))
        else:
            self.pending = None
            self.finished.append(step + length)
            self.subtask = min(self.subtask + 1, self.last)
            self.waited = 0
        return part

    def begin(
        self,
        task: TaskSpec,
        sources: SourceSet,
        spec: GenerationSpec,
        scene: SceneState,
        *,
        demo: int,
        bounds: tuple[int, int],
        step: int,
        shared: Shared | None,
        streams: Streams,
        survey: Survey | None,
    ) -> None:
        """Plan its next subtask from a source demo, where the objects are now; `blocked` when there is no way to it.

        Args:
            task: the task.
            sources: the demos.
            spec: settings.
            scene: now, newest last.
            demo: index of the demo.
            bounds: first row of the segment, and the exclusive end.
            step: control step of the episode.
            shared: what it has in common with other arms, when they act as one.
            streams: the attempt's randomness.
            survey: what planned transit asks for its surroundings; None for straight bridges.
        """
        subtask = sources.chains[self.eef][self.subtask]
        start, stop = bounds
        source = sources[demo]
        T_world_eef = scene.T_world_eef[self.eef][-1]
        # The object's pose is read once, when the subtask begins, and trusted until it ends.
        T_world_object = scene.T_world_object[subtask.object_ref][-1] if subtask.object_ref else None
        T_hand_object = None
        # Hands that act as one keep their poses to each other; a correction of one grasp would not.
        if spec.keep == "object" and not spec.untransformed and subtask.carries is not None and shared is None:
            T_hand_object = poses.inverse(T_world_eef) @ scene.T_world_object[subtask.carries][-1]
        first = self.subtask == 0
        T_world_from = self._T_last_target
        if first or spec.bridge_from == "current" or T_world_from is None:
            T_world_from = T_world_eef
        with_first_pose = first or spec.transform_first_pose
        segment = carried_segment(
            source,
            eef=self.eef,
            subtask=subtask,
            start=start,
            stop=stop,
            T_world_object=None if spec.untransformed else T_world_object,
            T_hand_object=T_hand_object,
            T_shared=None if shared is None else shared.T_shared,
            object_symmetry=symmetry(task, spec, subtask.object_ref),
            carried_symmetry=symmetry(task, spec, subtask.carries),
            with_first_pose=with_first_pose,
        )
        detour = None
        if survey is not None:
            most = min(stop - 1, stop if shared is None else shared.meet) - start
            approach = min(_approach(source, self.eef, subtask, start, stop), most) + with_first_pose
            look = self._looker(task, subtask, scene, survey)
            detour = look and around(T_world_from, segment.T_world_eef, approach, look, streams.transit)
        if detour is not None:
            self._take_detour(detour, subtask.name, step)
            segment = segment.without(detour.skipped)
        self.used.append(
            SourceUse(
                eef=self.eef,
                subtask=self.subtask,
                demo=demo,
                demo_name=source.demo.name,
                start=start + max(0, detour.skipped - with_first_pose if detour else 0),
                stop=stop,
                first_step=step,
                boundary=source.segments[self.eef][self.subtask].origin,
            )
        )
        self.pending = bridged_block(
            segment,
            subtask=subtask,
            T_world_from=T_world_from,
            T_world_via=None if detour is None else detour.T_world_eef,
            gripper_before=self._last_gripper,
            paced=spec.paced_bridge,
            noise_std=noise_std(subtask, task.robot.eefs[self.eef]),
            rng=streams.noise,
        )
        self.together = 0 if shared is None else shared.stop - shared.meet
        self._T_last_target = self.pending.T_world_eef[-1]
        self._last_gripper = self.pending.gripper[-1]

    def _looker(
        self, task: TaskSpec, subtask: SubtaskSpec, scene: SceneState, survey: Survey
    ) -> Callable[[Array, Array], Gauge] | None:
        """Return what surveys its surroundings with what it holds; None where others hold that too."""
        held = [subtask.carries] if subtask.carries and _holds(task, self.eef, subtask.carries, scene) else []
        others = [f"{eef}:{name}" for eef in task.subtasks if eef != self.eef for name in held]
        if any(key in task.held and bool(np.asarray(task.held[key](scene), bool)[-1]) for key in others):
            return None
        return partial(survey, self.eef, held)

    def _take_detour(self, detour: Detour, subtask: str, step: int) -> None:
        """Remember what was planned, or that nothing was found."""
        if detour.T_world_eef is None:
            self.blocked = f"no way to {subtask!r}: {detour.why_not}"
            return
        self.planned.append(
            TransitUse(
                eef=self.eef,
                subtask=self.subtask,
                first_step=step,
                steps=len(detour.T_world_eef),
                skipped=detour.skipped,
                checks=detour.checks,
            )
        )


def _approach(source: Source, eef: str, subtask: SubtaskSpec, start: int, stop: int) -> int:
    """Return how many rows of a segment only lead to where its work is done."""
    demo = source.demo
    mover = demo.T_world_object[subtask.carries] if subtask.carries else demo.T_world_eef[eef]
    return approach_rows(mover[start:stop, :3, 3])


def _holds(task: TaskSpec, eef: str, name: str, scene: SceneState) -> bool:
    """Whether an arm holds an object now; where the task cannot tell, the chain is believed."""
    holds = task.held_by(eef, name)
    return holds is None or bool(np.asarray(holds(scene), bool)[-1])


def symmetry(task: TaskSpec, spec: GenerationSpec, name: str | None) -> int:
    """Return an object's `yaw_symmetry`, or 1 where symmetries are not to be used."""
    return task.scene.objects[name].yaw_symmetry if spec.use_symmetry and name is not None else 1
