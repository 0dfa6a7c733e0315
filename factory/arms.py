"""One arm's way through its chain of subtasks in one attempt: where it is, what it plays, and why it waits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.coordination import Shared
from factory.retargeting import SourceUse, carried_block, noise_std
from factory.scene import SceneState
from factory.selection import SourceSet
from factory.sim import Block, Hold
from factory.specs import GenerationSpec, TaskSpec

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
    """

    eef: str
    last: int
    subtask: int = 0
    pending: Block | None = None
    together: int = 0
    finished: list[int] = field(default_factory=list)
    waited: int = 0
    used: list[SourceUse] = field(default_factory=list)
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
        rng: np.random.Generator,
    ) -> None:
        """Plan its next subtask from a source demo, where the objects are now.

        Args:
            task: the task.
            sources: the demos.
            spec: settings.
            scene: now, newest last.
            demo: index of the demo.
            bounds: first row of the segment, and the exclusive end.
            step: control step of the episode.
            shared: what it has in common with other arms, when they act as one.
            rng: the attempt's noise stream.
        """
        subtask = sources.chains[self.eef][self.subtask]
        start, stop = bounds
        source = sources[demo]
        self.used.append(
            SourceUse(
                eef=self.eef,
                subtask=self.subtask,
                demo=demo,
                demo_name=source.demo.name,
                start=start,
                stop=stop,
                first_step=step,
                boundary=source.segments[self.eef][self.subtask].origin,
            )
        )
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
        self.pending = carried_block(
            source,
            eef=self.eef,
            subtask=subtask,
            start=start,
            stop=stop,
            T_world_object=None if spec.untransformed else T_world_object,
            T_world_from=T_world_from,
            T_hand_object=T_hand_object,
            T_shared=None if shared is None else shared.T_shared,
            object_symmetry=symmetry(task, spec, subtask.object_ref),
            carried_symmetry=symmetry(task, spec, subtask.carries),
            gripper_before=self._last_gripper,
            with_first_pose=first or spec.transform_first_pose,
            paced=spec.paced_bridge,
            noise_std=noise_std(subtask, task.robot.eefs[self.eef]),
            rng=rng,
        )
        self.together = 0 if shared is None else shared.stop - shared.meet
        self._T_last_target = self.pending.T_world_eef[-1]
        self._last_gripper = self.pending.gripper[-1]


def symmetry(task: TaskSpec, spec: GenerationSpec, name: str | None) -> int:
    """Return an object's `yaw_symmetry`, or 1 where symmetries are not to be used."""
    return task.scene.objects[name].yaw_symmetry if spec.use_symmetry and name is not None else 1
