"""Drives attempts on a backend with N environments and judges them. One environment or four thousand: same results."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from factory import diagnosis
from factory.diagnosis import Failure, Miss
from factory.ending import CHECK_STEPS, Outlook, outlook, watched
from factory.errors import BackendError
from factory.generation import ConstraintUse, Move, attempt
from factory.placements import sample_placements
from factory.retargeting import Source, SourceUse
from factory.scene import SceneState, concatenate, take
from factory.selection import SourceSet, source_set
from factory.sim import Block, BlockResult, Commands, Hold, SimBackend, Snapshot
from factory.specs import GenerationSpec, TaskSpec
from factory.streams import Streams, spawn_streams
from factory.transit import Survey, TransitUse

Array = NDArray[np.float64]

_LOOKS = 4
"""Poses of a subtask's path that are checked for being within reach: its end, and three between. A path that leaves an
arm's reach between them comes back within a quarter of it."""
_REACHED_M, _REACHED_RAD = 1e-3, 0.01
"""Nearer than this is there."""
_METRES_PER_RAD = 0.1
"""What a radian counts against a metre where the worst of several misses is named: wrist to finger tips."""


@dataclass(frozen=True, kw_only=True)
class AttemptResult:
    """One attempt, kept or not. T control steps, T + 1 states; settling is not among them.

    Attributes:
        index: attempt index within its job.
        held: success was true through the final hold; this alone makes an episode a success.
        touched: success was true at some step.
        failure: None exactly when held.
        sources: pieces of demos used.
        placements: object -> ``(4, 4)`` body pose asked for at reset.
        start: snapshot after settling, from which row 0 continues.
        scene: T + 1 states.
        sim_states: named arrays ``(T + 1, ...)``.
        actions: ``(T, a)`` float32 as executed.
        T_world_eef_commanded: end effector -> ``(T, 4, 4)``: what the executed actions ask for.
        T_world_eef_target: end effector -> ``(T, 4, 4)``: what the plan wanted, before noise and clipping.
        subtask: end effector -> ``(T,)`` int64 index in its chain.
        hold_steps: how many of the last steps were the final hold.
        steps_saved: control steps of the present subtask and the final hold that were not run because success had
            become impossible; 0 for an attempt that ran to its end.
        waiting: end effector -> ``(T,)`` bool: it had not begun the subtask yet and waited for another arm.
        constraints: how the task's constraints were carried out, as far as the attempt came.
        transits: bridges that were planned, because the straight ones would have hit something.
        misses: end effector and index in its chain -> what of that subtask's path the arm cannot come to, noticed when
            the subtask began; only where the backend can tell.
    """

    index: int
    held: bool
    touched: bool
    failure: Failure | None
    sources: tuple[SourceUse, ...]
    placements: Mapping[str, Array]
    start: Snapshot
    scene: SceneState
    sim_states: Mapping[str, Array]
    actions: NDArray[np.float32]
    T_world_eef_commanded: Mapping[str, Array]
    T_world_eef_target: Mapping[str, Array]
    subtask: Mapping[str, NDArray[np.int64]]
    hold_steps: int
    steps_saved: int = 0
    waiting: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    constraints: tuple[ConstraintUse, ...] = ()
    transits: tuple[TransitUse, ...] = ()
    misses: Mapping[tuple[str, int], Miss] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


def run_attempts(
    backend: SimBackend, task: TaskSpec, sources: Sequence[Source], spec: GenerationSpec, indices: Iterable[int]
) -> Iterator[AttemptResult]:
    """Run attempts by index, as many at a time as the backend has environments; yields each when it is done.

    With one environment results come in the order of the indices; with more, in the order they finish.

    Raises:
        BackendError: transit is to be planned, and the backend cannot say what is in the way.
    """
    queue = iter(indices)
    stacked = source_set(task, sources, spec)
    running: dict[int, _Running] = {}
    while True:
        for env in range(backend.num_envs):
            if env not in running and (index := next(queue, None)) is not None:
                running[env] = _Running(backend, env, task, stacked, spec, index)
        if not running:
            return
        results = backend.advance({env: attempt.commands for env, attempt in running.items()})
        for env, result in results.items():
            if not running[env].take(result):
                yield running.pop(env).finish()


def _survey(backend: SimBackend, env: int) -> Survey:
    """Return what asks a backend about the surroundings in one environment."""
    if not hasattr(backend, "survey"):
        raise BackendError(
            f"transit cannot be planned: the backend {backend.describe()['backend']!r} cannot say what is in the way; "
            "robosuite can"
        )
    return partial(backend.survey, env)  # type: ignore[attr-defined] - only some backends can tell


class _Running:
    """One attempt in progress in one environment."""

    def __init__(
        self,
        backend: SimBackend,
        env: int,
        task: TaskSpec,
        sources: SourceSet,
        spec: GenerationSpec,
        index: int,
    ) -> None:
        self._backend, self._env, self._task, self._spec, self._index = backend, env, task, spec, index
        streams: Streams = spawn_streams(spec.seed, index)
        reset = task.reset(spec.variant)
        self._placements = sample_placements(reset, streams.scene)
        self._scene = backend.reset(env, self._placements, streams.scene, joint_noise_rad=reset.joint_noise_rad)
        self._generator: Generator[Move, SceneState, Failure | None] = attempt(
            task, sources, spec, streams, _survey(backend, env) if spec.transit == "planned" else None
        )
        self._start: Snapshot | None = None
        self._start_state: Mapping[str, Array] = {}
        self._results: list[BlockResult] = []
        self._moves: list[Move] = []
        self._stable = self._in_time = True
        self._hopeless: Failure | None = None
        self._deadlock: Failure | None = None
        self._saved = 0
        self._outlook: Outlook = "good"
        self._asked: set[tuple[str, int]] = set()
        self._misses: dict[tuple[str, int], Miss] = {}
        self._begin(next(self._generator))

    def take(self, result: BlockResult) -> bool:
        """Record what was run and decide what comes next; returns False when the attempt is over."""
        self._stable = result.stable
        if self._move.phase != "settle":
            self._results.append(result)
            self._moves.append(replace(self._move, commands=self.commands))
        elif result.stable:
            self._scene = take(result.scene, -1)
        if self._start is None:
            self._start = self._backend.snapshot(self._env)
            self._start_state = self._backend.sim_state(self._env)
        if not result.stable:
            return False
        self._done += len(result.actions)
        if self._spec.early_ending and self._move.phase == "work" and self._can_end(result.scene):
            return False
        if self._done < len(self._move):
            self._cut()
            return True
        try:
            move = self._generator.send(result.scene)
        except StopIteration as end:
            self._deadlock = end.value
            return False
        steps = sum(len(r.actions) for r in self._results)
        self._in_time = steps + len(move) <= self._spec.max_steps
        if not self._in_time and move.phase == "work" and all(isinstance(c, Hold) for c in move.commands.values()):
            self._deadlock = self._waits_too_long(move, steps)
        if self._in_time:
            self._begin(move, result.scene)
        return self._in_time

    def _waits_too_long(self, move: Move, steps: int) -> Failure:
        eef, why = next(iter(move.waiting.items()))
        name = self._task.subtasks[eef][move.subtask[eef]].name
        detail = f"at step {steps} {eef} waits for {why}, and an attempt may have {self._spec.max_steps} steps"
        return Failure(subtask=name, eef=eef, reason="constraint_deadlock", detail=detail)

    def _begin(self, move: Move, scene: SceneState | None = None) -> None:
        self._move, self._done = move, 0
        # Only where an object could be left behind is a look worth a pause; whether one is made changes no result.
        self._watched = (
            self._spec.early_ending and move.phase == "work" and watched(self._task, move.subtask, move.waiting)
        )
        if self._watched and scene is not None:
            self._outlook = outlook(self._task, self._scene, scene, move.subtask, move.ahead, move.waiting)
        self._look_ahead(move)
        self._cut()

    def _look_ahead(self, move: Move) -> None:
        """Ask of each subtask that begins whether its arm can come to where it is planned to go."""
        if move.phase != "work" or not hasattr(self._backend, "reach"):
            return
        reach = self._backend.reach  # type: ignore[attr-defined] - only some backends can tell
        for eef, block in move.ahead.items():
            key = (eef, move.subtask[eef])
            if key in self._asked:
                continue
            self._asked.add(key)
            rows = np.unique(np.linspace(0, len(block) - 1, _LOOKS + 1)[1:].round().astype(int))
            metres, radians = reach(self._env, eef, block.T_world_eef[rows])
            if (metres > _REACHED_M).any() or (radians > _REACHED_RAD).any():
                at = int(np.argmax(np.hypot(metres, _METRES_PER_RAD * radians)))
                x, y, z = block.T_world_eef[rows[at], :3, 3].tolist()
                self._misses[key] = Miss(metres=float(metres[at]), radians=float(radians[at]), xyz_m=(x, y, z))

    def _cut(self) -> None:
        """Take the next part of the present move."""
        stop = len(self._move)
        if self._watched:
            stop = min(stop, self._done + CHECK_STEPS[self._outlook])
        whole = self._done == 0 and stop == len(self._move)
        self.commands: Commands = (
            self._move.commands
            if whole
            else {eef: command.part(self._done, stop) for eef, command in self._move.commands.items()}
        )

    def _can_end(self, recent: SceneState) -> bool:
        """Whether success has become impossible and the failure has its final name."""
        move, played = (
            self._move,
            {e: self._done if isinstance(c, Block) else 0 for e, c in self._move.commands.items()},
        )
        ahead = {e: b.part(played[e], len(b)) for e, b in move.ahead.items() if played[e] < len(b)}
        self._outlook = outlook(self._task, self._scene, recent, move.subtask, ahead, move.waiting)
        if self._outlook != "hopeless":
            return False
        hands = self._task.robot.eefs
        closing = any(diagnosis.closing(b.gripper, hands[eef]).any() for eef, b in ahead.items())
        self._hopeless = diagnosis.decided(self._task, self._trace(), closing=closing)
        self._saved = max((len(b) for b in ahead.values()), default=0) + max(self._task.success_hold_steps, 1)
        return self._hopeless is not None

    def finish(self) -> AttemptResult:
        """Judge the attempt."""
        if self._start is None:
            raise BackendError(f"attempt {self._index} was finished before its first move was run")
        trace = self._trace()
        hold = trace.hold_steps
        held = bool(self._stable and self._in_time and hold and trace.success[-hold:].all())
        failure = None if held else self._deadlock or self._hopeless or diagnosis.diagnose(self._task, trace)
        return AttemptResult(
            index=self._index,
            held=held,
            touched=bool(trace.success.any()),
            failure=failure,
            sources=self._moves[-1].sources if self._moves else (),
            placements=self._placements,
            start=self._start,
            scene=trace.scene,
            sim_states={
                name: np.concatenate([value[None], *(r.sim_states[name] for r in self._results)])
                for name, value in self._start_state.items()
            },
            actions=trace.actions,
            T_world_eef_commanded={
                eef: self._stack([r.T_world_eef_commanded[eef] for r in self._results], (4, 4))
                for eef in self._task.robot.eefs
            },
            T_world_eef_target=trace.T_world_eef_target,
            subtask=trace.subtask,
            hold_steps=hold,
            steps_saved=self._saved if self._hopeless else 0,
            waiting=trace.waiting,
            constraints=self._moves[-1].constraints if self._moves else (),
            transits=self._moves[-1].transits if self._moves else (),
            misses=self._misses,
        )

    def _trace(self) -> diagnosis.Trace:
        """Return all that has happened so far, as the diagnosis wants it."""
        scene = concatenate([self._scene, *(r.scene for r in self._results)])
        return diagnosis.Trace(
            scene=scene,
            actions=self._stack([r.actions for r in self._results], (self._task.robot.action_dim,), np.float32),
            T_world_eef_target=self._targets(),
            subtask=self._subtasks(),
            success=np.asarray(self._task.success(scene), bool)[1:],
            hold_steps=len(self._results[-1].actions) if self._moves and self._moves[-1].phase == "hold" else 0,
            stable=self._stable,
            in_time=self._in_time,
            waiting=self._waiting(),
            misses=self._misses,
        )

    def _targets(self) -> dict[str, Array]:
        targets: dict[str, Array] = {}
        for eef in self._task.robot.eefs:
            parts: list[Array] = []
            last = self._scene.T_world_eef[eef][-1]
            for move, result in zip(self._moves, self._results, strict=True):
                command, n = move.commands[eef], len(result.actions)
                part = command.T_world_eef[:n] if isinstance(command, Block) else np.repeat(last[None], n, axis=0)
                parts.append(part)
                last = part[-1] if n else last
            targets[eef] = self._stack(parts, (4, 4))
        return targets

    def _subtasks(self) -> dict[str, NDArray[np.int64]]:
        pairs = list(zip(self._moves, self._results, strict=True))
        return {
            eef: self._stack([np.full(len(r.actions), m.subtask[eef]) for m, r in pairs], (), np.int64)
            for eef in self._task.robot.eefs
        }

    def _waiting(self) -> dict[str, NDArray[np.bool_]]:
        pairs = list(zip(self._moves, self._results, strict=True))
        return {
            eef: self._stack([np.full(len(r.actions), eef in m.waiting) for m, r in pairs], (), np.bool_)
            for eef in self._task.robot.eefs
        }

    @staticmethod
    def _stack(parts: list, shape: tuple[int, ...], dtype: type = np.float64) -> NDArray:
        return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty((0, *shape), dtype)
