"""The recipe: one attempt as a generator of moves. It knows no simulator, no clock and no files.

Every arm walks its own chain of subtasks at its own pace; both share one clock. The generator resumes when some arm's
block has ended, with the scene as it is then.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.retargeting import SourceUse, carried_block, noise_std
from factory.scene import SceneState
from factory.selection import SourceSet, jittered_bounds, select_source
from factory.sim import Block, Commands, Hold
from factory.specs import GenerationSpec, TaskSpec
from factory.streams import Streams

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Move:
    """What the attempt wants done next.

    Attributes:
        commands: per end effector, all of equal length.
        phase: "settle" is not part of the episode; "work" follows sources; "hold" waits to see success last.
        subtask: per end effector, the index of the subtask these steps belong to.
        sources: every piece of a demo used so far.
        ahead: per end effector, all that is left of its present subtask, these steps included; none when it has
            finished, settles or holds.
    """

    commands: Commands
    phase: Literal["settle", "work", "hold"]
    subtask: dict[str, int]
    sources: tuple[SourceUse, ...]
    ahead: Mapping[str, Block] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.commands.values())))


def attempt(
    task: TaskSpec, sources: SourceSet, spec: GenerationSpec, streams: Streams
) -> Generator[Move, SceneState, None]:
    """Yield the moves of one attempt; send back the scene after each, leading axis of any length, newest last.

    Args:
        task: what to do.
        sources: demos with their cuts; see `retargeting.check_sources`.
        spec: settings.
        streams: the attempt's randomness.
    """
    eefs = tuple(task.subtasks)
    last_of = {eef: len(task.subtasks[eef]) - 1 for eef in eefs}
    scene = yield Move(
        commands={eef: Hold(steps=max(task.settle_steps, 1)) for eef in eefs},
        phase="settle",
        subtask=dict.fromkeys(eefs, 0),
        sources=(),
    )
    arms = {eef: _Arm(task, eef, sources, spec, streams) for eef in eefs}
    step = 0
    while True:
        for arm in arms.values():
            arm.refill(scene, step)
        ahead = {eef: arm.pending for eef, arm in arms.items() if arm.pending is not None}
        if not ahead:
            break
        length = min(len(block) for block in ahead.values())
        commands = {eef: arm.take(length) for eef, arm in arms.items()}
        used = tuple(use for arm in arms.values() for use in arm.used)
        scene = yield Move(
            commands=commands,
            phase="work",
            subtask={eef: arm.subtask for eef, arm in arms.items()},
            sources=used,
            ahead=ahead,
        )
        step += length
    yield Move(
        commands={eef: Hold(steps=max(task.success_hold_steps, 1)) for eef in eefs},
        phase="hold",
        subtask=last_of,
        sources=tuple(use for arm in arms.values() for use in arm.used),
    )


class _Arm:
    """One arm's progress through its chain within one attempt."""

    def __init__(self, task: TaskSpec, eef: str, sources: SourceSet, spec: GenerationSpec, streams: Streams) -> None:
        self._task, self._eef, self._sources, self._spec, self._streams = task, eef, sources, spec, streams
        self._bounds = jittered_bounds(sources, eef, streams.selection)
        self._chosen: int | None = None
        self._T_last_target: Array | None = None
        self.pending: Block | None = None
        self.subtask = -1
        self.used: list[SourceUse] = []

    def refill(self, scene: SceneState, step: int) -> None:
        """Begin the next subtask when the present one has been played out."""
        if self.pending is not None or self.subtask + 1 >= len(self._task.subtasks[self._eef]):
            return
        self.subtask += 1
        self.pending = self._begin(scene, step)
        self._T_last_target = self.pending.T_world_eef[-1]

    def take(self, length: int) -> Block | Hold:
        """Return the next steps, or a hold for an arm that has finished."""
        if self.pending is None:
            return Hold(steps=length)
        part = self.pending.part(0, length)
        self.pending = self.pending.part(length, len(self.pending)) if length < len(self.pending) else None
        return part

    def _begin(self, scene: SceneState, step: int) -> Block:
        eef, spec = self._eef, self._spec
        subtask = self._sources.chains[eef][self.subtask]
        T_world_eef = scene.T_world_eef[eef][-1]
        # The object's pose is read once, when the subtask begins, and trusted until it ends.
        T_world_object = scene.T_world_object[subtask.object_ref][-1] if subtask.object_ref else None
        if self._chosen is None or spec.select_per == "subtask":
            self._chosen = select_source(
                self._sources,
                self._bounds[:, self.subtask, 0],
                eef=eef,
                subtask=self.subtask,
                T_world_object=T_world_object,
                T_world_eef=T_world_eef,
                yaw_symmetry=self._symmetry(subtask.object_ref),
                rng=self._streams.selection,
            )
        start, stop = (int(v) for v in self._bounds[self._chosen, self.subtask])
        source = self._sources[self._chosen]
        self.used.append(
            SourceUse(
                eef=eef,
                subtask=self.subtask,
                demo=self._chosen,
                demo_name=source.demo.name,
                start=start,
                stop=stop,
                first_step=step,
                boundary=source.segments[eef][self.subtask].origin,
            )
        )
        T_hand_object = None
        if spec.keep == "object" and not spec.untransformed and subtask.carries is not None:
            T_hand_object = poses.inverse(T_world_eef) @ scene.T_world_object[subtask.carries][-1]
        first = self.subtask == 0
        T_world_from = self._T_last_target
        if first or spec.bridge_from == "current" or T_world_from is None:
            T_world_from = T_world_eef
        return carried_block(
            source,
            eef=eef,
            subtask=subtask,
            start=start,
            stop=stop,
            T_world_object=None if spec.untransformed else T_world_object,
            T_world_from=T_world_from,
            T_hand_object=T_hand_object,
            object_symmetry=self._symmetry(subtask.object_ref),
            carried_symmetry=self._symmetry(subtask.carries),
            with_first_pose=first or spec.transform_first_pose,
            paced=spec.paced_bridge,
            noise_std=noise_std(subtask, self._task.robot.eefs[eef]),
            rng=self._streams.noise,
        )

    def _symmetry(self, name: str | None) -> int:
        return self._task.scene.objects[name].yaw_symmetry if self._spec.use_symmetry and name is not None else 1
