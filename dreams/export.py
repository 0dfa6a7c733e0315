"""Dreams as a LeRobot dataset: one row a control step, and columns that say what is known and what was only guessed.

A video model shows a picture every few control steps; a row carries the latest picture there is, and
`annotation.picture_is_new` says at which rows it changes. So dreams have the rate of the real episodes they are mixed
with, and a displacement means the same in both.

What was executed in the simulator brings true hand poses and the true actions. Anything else has the labels' own, as
actions by the model of `dreams.lag`: what a hand would have to be told to move so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreams import motion as motions
from dreams.clips import Clip
from dreams.instructions import Instruction
from dreams.judge import Judgement
from dreams.lag import OSC, Lag, between, followed, moved, target_for
from dreams.latents import LatentLabels
from dreams.motion import Labels
from factory import actions, poses
from factory.datasets import write_dataset
from factory.durable import staging
from factory.episodes import Column, Episode, add_clips, write_shard
from factory.errors import SpecError
from factory.specs import RobotSpec
from factory.video import ClipWriter

Array = NDArray[np.float64]
Tier = Literal["executed_success", "executed_failure", "not_replayable", "not_tried"]
TIERS: tuple[Tier, ...] = ("executed_success", "executed_failure", "not_replayable", "not_tried")
SOURCES = ("absent", "labelled", "true")
"""What `annotation.state_source` and `annotation.action_source` count: nothing known (zeros), read from the video,
measured in the simulator."""
VERDICTS = ("accept", "reject", "abstain", "error", "not_judged")
LATENT_TYPE = "lapa"
"""Embodiment of latent actions, whoever moved: the name that GR00T knows for them."""
_POSE = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")


@dataclass(frozen=True, kw_only=True)
class Dream:
    """One dream and what became known of it.

    Attributes:
        index: its number in the run.
        clip: what was seen.
        labels: what its hands did; None where nobody read it.
        latents: its latent actions; None likewise.
        judgement: whether it shows what it was told; None where nobody judged.
        verification: what came of carrying it out, as `verify.record_of` says it; None where nobody tried.
        executed: what was executed, as an episode with true states and actions; None where nothing was.
        T_base_start: hand -> ``(4, 4)`` pose at its first picture, where the simulator knows it.
        facts: JSON-ready: first frame, seed, models, prompt and judge versions, seams.
    """

    index: int
    clip: Clip
    labels: Labels | None = None
    latents: LatentLabels | None = None
    judgement: Judgement | None = None
    verification: Mapping[str, Any] | None = None
    executed: Episode | None = None
    T_base_start: Mapping[str, Array] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tier(self) -> Tier:
        """How far it was verified."""
        return self.verification["tier"] if self.verification else "not_tried"

    @property
    def instruction(self) -> str:
        """What it is filed under: what was really done, where a judge that rejected it accepted that instead."""
        judged = self.judgement
        if judged and judged.verdict == "reject" and judged.caption and judged.refiled:
            return judged.caption.text if judged.refiled.verdict == "accept" else self.clip.instruction
        return self.clip.instruction

    @property
    def worth_learning(self) -> bool:
        """Whether it did what it is filed under: by execution where there was one, else by its judge."""
        if self.tier in ("executed_success", "executed_failure"):
            return self.tier == "executed_success" and self.instruction == self.clip.instruction
        judged = self.judgement
        if judged is None:
            return False
        return judged.verdict == "accept" or (judged.refiled is not None and judged.refiled.verdict == "accept")


def labelled_episode(dream: Dream, robot: RobotSpec, *, lag: Lag = OSC) -> Episode:
    """Return the episode of a dream with the actions of its robot: true ones where it was executed.

    Columns (T rows, T the steps of the dream): `observation.state` has, per hand, its pose in its base frame (metres,
    rot6d) and the command its fingers had before; `action` is normalised as the robot's controller takes it;
    `label.motion` is what was read from the video, `label.confidence` in [0, 1] how sure that is;
    `annotation.state_source` and `annotation.action_source` count `SOURCES`, `annotation.tier` counts `TIERS`,
    `annotation.verdict` counts `VERDICTS`.

    Raises:
        SpecError: it has no labels, or those of another robot.
    """
    labels = dream.labels
    if labels is None:
        raise SpecError(f"dream {dream.index} has no labels; label it before it is exported with actions")
    hands = motions.hands_of(robot)
    parts, steps = motions.parted(labels.motion, hands), len(labels.motion)
    run = dream.executed
    if run is not None and len(run) >= steps and dream.tier == "executed_success":
        hand_poses = {eef: _true_poses(run, eef)[:steps] for eef in hands}
        made, state_source, action_source = run.columns["action"].values[:steps], 2, 2
    else:
        path, state_source = _path(dream, labels, hands)
        hand_poses = {eef: poses.xyz_rot6d_from_pose(T[:steps]) for eef, T in path.items()}
        made, action_source = _actions(path, parts, robot, lag), 1
    state: list[Array] = []
    state_names: list[str] = []
    for eef, fingers in hands.items():
        commands = parts[eef][:, 6:]
        pose = hand_poses[eef]
        state += [pose if state_source else np.zeros_like(pose), np.concatenate([commands[:1], commands[:-1]])]
        state_names += [f"{eef}_eef_{name}" for name in _POSE]
        state_names += [f"{eef}_gripper" + (str(i + 1) if i else "") for i in range(fingers)]
    return _episode(
        dream,
        columns={
            "observation.state": _column(np.concatenate(state, axis=1), tuple(state_names)),
            "action": _column(made, action_names(robot)),
            "label.motion": _column(labels.motion, motions.names(hands)),
            "label.confidence": _column(labels.confidence),
        },
        sources=(state_source, action_source),
        control_hz=float(dream.clip.time.control_hz),
        facts={"labels": {"kind": "idm", "model": labels.model, "version": labels.version}},
    )


def latent_episode(dream: Dream) -> Episode:
    """Return the episode of a dream with latent actions: row t has that of the pair of pictures it lies in first.

    After the last pair's first picture the last action stays; `annotation.action_source` is 0 there.

    Raises:
        SpecError: it has no latent labels.
    """
    latents = dream.latents
    if latents is None:
        raise SpecError(f"dream {dream.index} has no latent labels")
    steps = dream.clip.length
    pair = np.arange(steps) // dream.clip.time.stride
    known = pair < len(latents.embedding)
    values = latents.embedding[np.minimum(pair, len(latents.embedding) - 1)]
    names = tuple(f"latent_{i}" for i in range(values.shape[1]))
    return _episode(
        dream,
        columns={
            "observation.state": _column(np.zeros((steps, 1)), ("absent",)),
            "action": _column(values, names),
        },
        sources=(0, np.where(known, 1, 0)),
        control_hz=float(dream.clip.time.control_hz),
        facts={"labels": {"kind": "latent", "model": latents.model, "version": latents.version}},
    )


def write_dreams(
    root: Path, episodes: Iterable[tuple[Dream, Episode]], *, robot_type: str, job: Mapping[str, Any]
) -> Path:
    """Write dreams and their episodes as one verified dataset at `root`, each view a camera; returns it.

    Raises:
        DatasetError: `root` exists, there is no episode, or they do not fit together; nothing is left at `root` then.
    """
    with staging(root.with_name(root.name + ".shards")) as folder:
        shards = [_shard(folder, dream, episode) for dream, episode in episodes]
        return write_dataset(root, shards, robot_type=robot_type, job=job)


def action_names(robot: RobotSpec) -> tuple[str, ...]:
    """Return what each number of a robot's action is, as all datasets of this project call it."""
    names = [""] * robot.action_dim
    for eef, spec in robot.eefs.items():
        for i, name in enumerate(("dx", "dy", "dz", "rx", "ry", "rz")):
            names[spec.arm_action[0] + i] = f"{eef}_{name}"
        for i in range(*spec.gripper_action):
            number = i - spec.gripper_action[0]
            names[i] = f"{eef}_gripper" + (str(number + 1) if number else "")
    return tuple(names)


def _true_poses(executed: Episode, eef: str) -> Array:
    """Return where a hand was before each step ``(T, 9)``, in its base frame: part of the state of every episode."""
    state = executed.columns["observation.state"]
    return state.values[:, [state.names.index(f"{eef}_eef_{name}") for name in _POSE]].astype(np.float64)


def _path(dream: Dream, labels: Labels, hands: motions.Hands) -> tuple[dict[str, Array], int]:
    """Return each hand's poses ``(T + 1, 4, 4)`` and whether they are known: 1, or 0 where only the motion is."""
    if labels.T_base_eef is not None:
        return dict(labels.T_base_eef), 1
    start = dream.T_base_start or {eef: np.eye(4) for eef in hands}
    return motions.poses_of(labels.motion, start, hands), 1 if dream.T_base_start else 0


def _actions(path: Mapping[str, Array], parts: Mapping[str, Array], robot: RobotSpec, lag: Lag) -> NDArray[np.float32]:
    """Return the actions that make hands follow their paths, by the model of how they follow."""
    steps = len(next(iter(parts.values())))
    rows = np.zeros((steps, robot.action_dim), np.float32)
    for eef, spec in robot.eefs.items():
        T, last = path[eef], np.zeros(6)
        here = T[0]
        for step in range(steps):
            target = target_for(here, last, T[min(step + lag.ahead, steps)], lag)
            action = actions.execute(here, target, np.zeros(6), np.eye(4), spec)
            rows[step, slice(*spec.arm_action)] = action
            last = followed(last, between(here, actions.target_of_action(here, action, np.eye(4), spec)), lag)
            here = moved(here, last)
        rows[:, slice(*spec.gripper_action)] = np.clip(parts[eef][:, 6:], -1.0, 1.0)
    return rows


def _episode(
    dream: Dream,
    *,
    columns: Mapping[str, Column],
    sources: tuple[int, int | NDArray[Any]],
    control_hz: float,
    facts: Mapping[str, Any],
) -> Episode:
    rows = len(columns["action"].values)
    judged = dream.judgement
    verdict = judged.verdict if judged else "not_judged"
    score = judged.score if judged and np.isfinite(judged.score) else 0.0

    def constant(value: Any, dtype: Any) -> Column:
        return Column(values=np.full(rows, value, dtype))

    return Episode(
        index=dream.index,
        success=dream.worth_learning,
        task="dream",
        instruction=dream.instruction,
        control_hz=control_hz,
        columns={
            **columns,
            "annotation.state_source": constant(sources[0], np.int64),
            "annotation.action_source": Column(values=np.broadcast_to(sources[1], rows).astype(np.int64)),
            "annotation.picture_is_new": Column(values=np.arange(rows) % dream.clip.time.stride == 0),
            "annotation.tier": constant(TIERS.index(dream.tier), np.int64),
            "annotation.verdict": constant(VERDICTS.index(verdict), np.int64),
            "annotation.judge_score": constant(score, np.float32),
        },
        subtasks=(),
        provenance={
            "dream": dict(dream.facts),
            "asked": dream.clip.instruction,
            "time": asdict(dream.clip.time),
            "views": {name: list(place) for name, place in dream.clip.grid.rectangles().items()},
            "judgement": None if judged is None else judgement_document(judged),
            "verification": None if dream.verification is None else dict(dream.verification),
            **facts,
        },
    )


def judgement_document(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as JSON; a score that is not a number is None."""

    def said(instruction: Instruction | None) -> str | None:
        return instruction.text if instruction else None

    return {
        "verdict": judgement.verdict,
        "score": float(judgement.score) if np.isfinite(judgement.score) else None,
        "votes": [float(vote) for vote in judgement.votes],
        "events": {name: list(words) for name, words in judgement.events.items()},
        "contrast": float(judgement.contrast),
        "caption": said(judgement.caption),
        "refiled": judgement_document(judgement.refiled) if judgement.refiled else None,
        "reason": judgement.reason,
        "judge": judgement.judge,
        "version": judgement.version,
        "frames": list(judgement.frames),
    }


def _shard(folder: Path, dream: Dream, episode: Episode) -> Path:
    """Write an episode and its pictures, one a row, each view as a camera."""
    shard = write_shard(folder, episode)
    stride, fps, grid = dream.clip.time.stride, round(episode.control_hz), dream.clip.grid
    clips: dict[str, Any] = {}
    for view, frames in grid.split(dream.clip.frames).items():
        path = folder / f"{shard.name}-{view}.mp4"
        with ClipWriter(path, width=grid.width_px, height=grid.height_px, fps=fps) as writer:
            for row in range(len(episode)):
                writer.write(frames[row // stride])
        clips[view] = writer.finish()
    add_clips(shard, clips, {"cameras": list(grid.views), "width": grid.width_px, "height": grid.height_px})
    return shard


def _column(values: NDArray[Any], names: tuple[str, ...] = ()) -> Column:
    return Column(values=np.ascontiguousarray(values, np.float32), names=names)
