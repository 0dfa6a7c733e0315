"""Trains the inverse dynamics model on episodes whose motion is known."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dreams.clips import Clip
from dreams.descent import Schedule, descend, publish
from dreams.embodiments import Starts, embodiments_of
from dreams.flow import drawn_times, on_path
from dreams.idm import MODEL, Idm, IdmCard, card_json, embodiment_number, network_of, poses_from, whole_windows
from dreams.idm_net import IdmNet, IdmSpec
from dreams.motion import poses_of
from dreams.vision import as_input, varied
from factory import poses
from factory.durable import json_bytes
from factory.errors import SpecError

Array = NDArray[np.float64]
_DOUBTED, _DOUBT_STEPS, _DOUBT_BATCH = 400, 1000, 128
"""Held-out clips from which a model learns how large its errors are, steps of that at most, and windows in a step."""


def train_idm(
    clips: Sequence[Clip],
    folder: Path,
    spec: IdmSpec,
    schedule: Schedule,
    *,
    again: Sequence[Clip] = (),
    starts: Starts | None = None,
    max_s: float = math.inf,
    device: str = "cpu",
) -> Idm:
    """Train a model on clips whose motion is known, or go on where `folder` was left; return it.

    Every tenth clip, and at least one, is held out: it only says how large the errors are. With `starts` the model also
    learns where the hands are. Same clips, spec and schedule: the same weights, bit by bit on one machine.

    Args:
        clips: whose motion is known.
        folder: of the model.
        spec: what it is like.
        schedule: how it is trained.
        again: the same clips in the same order, seen otherwise, such as through a video model's autoencoder: it is
            dreams that are to be read. They are held out together, and errors are those of both.
        starts: where the hands are at the clips' first pictures, by name.
        max_s: seconds after which it stops at the next step.
        device: where it computes.

    Raises:
        SpecError: fewer than four clips, clips of different clocks or grids, or without motion, or others `again`.
        DatasetError: the folder holds another training.
    """
    _check(clips, again)
    held = [i for i in range(len(clips)) if i % 10 == min(4, len(clips) - 1)]
    used = [clip for seen in (clips, again) for i, clip in enumerate(seen) if i not in held]
    time = clips[0].time
    card = IdmCard(
        spec=spec, grid=clips[0].grid, control_hz=time.control_hz, stride=time.stride,
        embodiments=embodiments_of(used, starts), errors={}, version="",
        trained_on={
            "clips": [clip.name for clip in clips], "held_out": [clips[i].name for i in held], "again": len(again),
        },
        schedule=asdict(schedule),
    )  # fmt: skip
    torch.manual_seed(schedule.seed)
    net = network_of(card).to(device)
    batches = _Batches(card, net, used, starts or {}, schedule.batch)
    about = json.loads(json_bytes(card_json(card))) | {"pixels": _digest_of([*clips, *again])}
    done = descend(net, batches.loss, folder / "training", schedule, about=about, max_s=max_s)
    card = replace(card, schedule={**card.schedule, "done": done})
    errors = _errors(
        Idm(card, net, name=folder.name), [seen[i] for seen in (clips, again) if seen for i in held], starts or {}
    )
    card = replace(card, errors=errors)
    if spec.head == "regression" and done == schedule.steps:
        known = [seen[i] for seen in (clips, again) if seen for i in _some(held)]
        card, net = _doubting(card, net, known, steps=min(_DOUBT_STEPS, 4 * schedule.steps))
    version = publish(net, folder, MODEL, card_json(card))
    return Idm(replace(card, version=version), net, name=folder.name)


def _some(held: Sequence[int]) -> list[int]:
    return [held[int(i)] for i in np.unique(np.linspace(0, len(held) - 1, _DOUBTED).round().astype(int))]


def _doubting(card: IdmCard, net: IdmNet, held: Sequence[Clip], *, steps: int) -> tuple[IdmCard, IdmNet]:
    """Return a model that says the same, and how large its error is: learned from clips that it did not learn from.

    What is learned is the standard deviation under which the errors are likeliest, as normal (Nix and Weigend 1994,
    "Estimating the Mean and Variance of the Target Probability Distribution"), the motion itself left as it is.
    """
    card = replace(card, doubts=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(card.schedule["seed"])
        more = network_of(card).to(next(net.parameters()).device)
    more.load_state_dict(net.state_dict(), strict=False)
    model, examples = Idm(card, more, name=""), dict[int, list[tuple[Tensor, Tensor]]]()
    for clip in held:
        if (found := model.misread(clip)) is not None:
            examples.setdefault(embodiment_number(card, clip), []).append(found)
    joined = {number: tuple(map(torch.cat, zip(*found, strict=True))) for number, found in examples.items()}

    def loss(draw: torch.Generator) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for number, (tokens, missed) in joined.items():
            rows = torch.randint(len(tokens), (_DOUBT_BATCH,), generator=draw)
            _, error = more.said(tokens[rows], number)
            assert error is not None  # noqa: S101 - the card says it doubts
            parts[f"doubt_{number}"] = (error.log() + 0.5 * (missed[rows] / error).square()).mean()
        return parts

    if joined:
        plan = Schedule(steps=steps, batch=_DOUBT_BATCH, rate=3e-3, seed=card.schedule["seed"])
        with TemporaryDirectory() as place:  # seconds of work, done anew whenever the motion was learned further
            descend(more.doubts(), loss, Path(place), plan, about={})
    return card, more


class _Batches:
    """The training examples: normalised windows of every embodiment, on the device."""

    def __init__(self, card: IdmCard, net: IdmNet, clips: Sequence[Clip], starts: Starts, batch: int) -> None:
        self.card, self.net, self.batch = card, net, batch
        self.device = next(net.parameters()).device
        self.frames = [torch.from_numpy(clip.frames) for clip in clips]
        self.motion: list[Tensor] = []
        self.places: list[Tensor] = []
        windows_of: list[list[tuple[int, int]]] = [[] for _ in card.embodiments]
        for i, clip in enumerate(clips):
            number = embodiment_number(card, clip)
            body = card.embodiments[number]
            assert clip.motion is not None  # noqa: S101 - checked before
            self.motion.append(torch.from_numpy(body.normal(clip.motion)).float())
            T = true_poses(clip, starts) if body.sees_poses else None
            self.places.append(torch.from_numpy(body.unplaced(T)).float() if T is not None else torch.zeros(0))
            windows_of[number] += [(i, int(k)) for k in whole_windows(clip.time, card.horizon, clip.length).first]
        self.windows = windows_of
        if empty := [body.name for body, found in zip(card.embodiments, windows_of, strict=True) if not found]:
            raise SpecError(f"no clip of {', '.join(empty)} is as long as a window of {card.horizon} control steps")

    def loss(self, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the loss of one batch, of one embodiment: all heads see as many as they have windows."""
        sizes = torch.tensor([len(found) for found in self.windows], dtype=torch.float32)
        number = int(torch.multinomial(sizes, 1, generator=generator))
        found = self.windows[number]
        picks = [found[int(i)] for i in torch.randint(len(found), (self.batch,), generator=generator)]
        offsets, card = torch.tensor(self.card.offsets), self.card
        pictures = as_input(torch.stack([self.frames[i][k + offsets] for i, k in picks]).to(self.device))
        pictures = varied(pictures, generator, jitter=card.spec.jitter, noise=card.spec.noise)
        rows = [k * card.stride for _, k in picks]
        motion = torch.stack(
            [self.motion[i][row : row + card.horizon] for (i, _), row in zip(picks, rows, strict=True)]
        ).to(self.device)
        digest = self.net.digest(pictures)
        parts = {"motion": self._motion_loss(digest, number, motion, generator)}
        if card.embodiments[number].sees_poses:
            places = torch.stack([self.places[i][k + offsets] for i, k in picks]).to(self.device)
            parts["places"] = functional.smooth_l1_loss(self.net.poses(digest, number), places, beta=0.1)
        return parts

    def _motion_loss(self, digest: Tensor, number: int, motion: Tensor, generator: torch.Generator) -> Tensor:
        if self.card.spec.head == "regression":
            return functional.mse_loss(self.net.motion(digest, number), motion)
        noise = torch.randn(motion.shape, generator=generator).to(self.device)
        times = drawn_times(len(motion), generator).to(self.device)
        noisy, velocity = on_path(motion, noise, times)
        return functional.mse_loss(self.net.motion(digest, number, noisy, times), velocity)


def true_poses(clip: Clip, starts: Starts) -> Array | None:
    """Return the hands' true poses ``(frames, 9 n)`` at the clip's pictures; None where they are not known."""
    if clip.motion is None or clip.name not in starts:
        return None
    T = poses_of(clip.motion, starts[clip.name], clip.hands)
    rows = clip.time.rows(clip.length)
    return np.concatenate([poses.xyz_rot6d_from_pose(T[eef][rows]) for eef in clip.hands], axis=1)


def _errors(model: Idm, clips: Sequence[Clip], starts: Starts) -> dict[str, list[float]]:
    """Return root mean square errors along each axis, of places and of what increments gather a step."""
    found: dict[str, list[Array]] = {}
    for clip in clips:
        reading = model.read(clip)
        if clip.motion is None or not len(reading.where.start):
            continue
        truth = clip.motion[reading.where.start[:, None] + np.arange(reading.where.horizon)]
        gathered = (reading.motion.mean(axis=0) - truth).sum(axis=1) / math.sqrt(reading.where.horizon)
        at = 0
        for fingers in clip.hands.values():
            found.setdefault("drift_m", []).append(gathered[:, at : at + 3])
            found.setdefault("drift_rad", []).append(gathered[:, at + 3 : at + 6])
            at += 6 + fingers
        said, true = model.places(clip), true_poses(clip, starts)
        if said is None or true is None:
            continue
        for k in range(len(clip.hands)):
            a, b = (poses_from(each[:, 9 * k : 9 * k + 9]) for each in (said, true))
            turn = a[:, :3, :3] @ np.swapaxes(b[:, :3, :3], -1, -2)
            found.setdefault("place_m", []).append(a[:, :3, 3] - b[:, :3, 3])
            found.setdefault("place_rad", []).append(poses.axis_angle_from_matrix(turn))
    # A thing that never turned cannot be weighed with certainty, so no error is quite zero.
    rms = {name: np.sqrt((np.concatenate(each) ** 2).mean(axis=0)) for name, each in found.items()}
    return {name: np.maximum(each, 1e-6).tolist() for name, each in rms.items()}


def _check(clips: Sequence[Clip], again: Sequence[Clip]) -> None:
    if again and [clip.name for clip in again] != [clip.name for clip in clips]:
        raise SpecError(f"{len(again)} clips seen again; expected the same {len(clips)}, in their order")
    if len(clips) < 4:
        raise SpecError(f"an inverse dynamics model needs four clips, one of them held out; found {len(clips)}")
    for clip in clips:
        if clip.motion is None:
            raise SpecError(f"clip {clip.name!r} has no motion to learn from")
        if (clip.time.control_hz, clip.time.stride, clip.grid) != (
            clips[0].time.control_hz, clips[0].time.stride, clips[0].grid,
        ):  # fmt: skip
            raise SpecError(f"clips {clips[0].name!r} and {clip.name!r} have different clocks or grids")


def _digest_of(clips: Sequence[Clip]) -> str:
    """Return a SHA-256 of all that is learned from."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.frames.tobytes())
        digest.update(b"" if clip.motion is None else clip.motion.tobytes())
    return digest.hexdigest()
