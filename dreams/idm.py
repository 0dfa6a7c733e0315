"""Inverse dynamics model: trained on episodes whose motion is known, reads the motion that pictures show.

A model is a folder: `model.json` says what it is and which weights file belongs to it; `training/` is what is needed to
go on training. Nothing is executed when one is opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreams.clips import Clip
from dreams.descent import generator_of
from dreams.embodiments import Embodiment, key_of
from dreams.flow import carried
from dreams.idm_net import IdmNet, IdmSpec, Widths
from dreams.labelling import Reading, Seen
from dreams.timebase import TimeBase, Windows, windows
from dreams.views import Grid, seen_as
from dreams.vision import EyeSpec, as_input
from factory import poses
from factory.errors import DatasetError, SpecError, unknown_name

Array = NDArray[np.float64]
MODEL = "model.json"
_FORMAT = "idm/1"


@dataclass(frozen=True, kw_only=True)
class IdmCard:
    """What a model's folder says of it.

    Attributes:
        spec: what it is like.
        grid: the pictures it reads.
        control_hz: rate of the motion it says.
        stride: control steps between the pictures it reads.
        embodiments: whose motion it knows.
        errors: on the clips that training held out; empty before that.
        doubts: whether it says how large its error is at each step.
        version: of the weights; empty before they are written.
        trained_on: clips, and which of them were held out.
        schedule: how it was trained, and how many steps of it are done.
    """

    spec: IdmSpec
    grid: Grid
    control_hz: int
    stride: int
    embodiments: tuple[Embodiment, ...]
    errors: Mapping[str, list[float]]
    version: str
    trained_on: Mapping[str, Any]
    schedule: Mapping[str, Any]
    doubts: bool = False

    @property
    def horizon(self) -> int:
        """Actions of a window."""
        return horizon_of(self.stride, self.spec.near)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Which pictures of a window are shown, counted from its first."""
        last = self.horizon // self.stride
        return tuple(range(last + 1)) if self.spec.between else (0, last)


def horizon_of(stride: int, near: int = 16) -> int:
    """Return the multiple of a clip's stride that is nearest to `near` control steps; the longer of two."""
    return max(1, math.floor(near / stride + 0.5)) * stride


class Idm:
    """A model that is loaded."""

    def __init__(self, card: IdmCard, net: IdmNet, *, name: str, samples: int = 1, seed: int = 0) -> None:
        """Hold it. With a flow head each window is read `samples` times, from noise that `seed` decides."""
        self.card, self.net, self.name, self.samples, self.seed = card, net.eval(), name, samples, seed

    @property
    def version(self) -> str:
        """Which weights it has."""
        return self.card.version

    def read(self, clip: Clip) -> Reading:
        """Return what each window of the clip says.

        Pictures with further views, or larger ones, are seen as those it knows. Raises SpecError for pictures or hands
        it was not trained on.
        """
        clip = _seen(clip, self.card.grid)
        number = embodiment_number(self.card, clip)
        body = self.card.embodiments[number]
        where = whole_windows(clip.time, self.card.horizon, clip.length)
        device = next(self.net.parameters()).device
        with torch.no_grad():
            digest = self.net.digest(as_input(torch.from_numpy(clip.frames).to(device)))
            shown = digest[torch.from_numpy(where.first[:, None] + np.array(self.card.offsets)).to(device)]
            if self.card.spec.head == "flow":
                drawn, error = [self._drawn(shown, number, sample) for sample in range(self.samples)], None
            else:
                motion, error = self.net.said(self.net.read(shown, number), number)
                drawn = [motion]
            places = body.placed(self.net.poses(digest, number).double().cpu().numpy()) if body.sees_poses else None
        motion = body.physical(torch.stack(drawn).double().cpu().numpy())
        seen = self._seen(body, places) if places is not None and "place_m" in self.card.errors else None
        doubt = None if error is None else error.double().cpu().numpy() * body.scale
        return Reading(where=where, motion=motion, scale=body.scale, commands=body.commands, seen=seen, error=doubt)

    def misread(self, clip: Clip) -> tuple[Tensor, Tensor] | None:
        """Return the tokens ``(w, horizon, width)`` of each window, and the error of the motion said from them.

        The error ``(w, horizon, m)`` is in usual sizes of motion. None for a clip without a whole window or a motion.
        """
        number = embodiment_number(self.card, clip)
        where = whole_windows(clip.time, self.card.horizon, clip.length)
        if clip.motion is None or not len(where.start):
            return None
        device = next(self.net.parameters()).device
        true = self.card.embodiments[number].normal(clip.motion[where.start[:, None] + np.arange(where.horizon)])
        with torch.no_grad():
            digest = self.net.digest(as_input(torch.from_numpy(clip.frames).to(device)))
            shown = digest[torch.from_numpy(where.first[:, None] + np.array(self.card.offsets)).to(device)]
            tokens = self.net.read(shown, number)
            return tokens, self.net.said(tokens, number)[0] - torch.from_numpy(true).float().to(device)

    def places(self, clip: Clip) -> Array | None:
        """Return where the hands are in each picture, ``(frames, 9 n)``; None where that was not learned."""
        clip = _seen(clip, self.card.grid)
        number = embodiment_number(self.card, clip)
        body = self.card.embodiments[number]
        if not body.sees_poses:
            return None
        with torch.no_grad():
            pictures = as_input(torch.from_numpy(clip.frames).to(next(self.net.parameters()).device))
            return body.placed(self.net.poses(self.net.digest(pictures), number).double().cpu().numpy())

    def _drawn(self, shown: Tensor, number: int, sample: int) -> Tensor:
        shape = (len(shown), self.card.horizon, len(self.card.embodiments[number].scale))
        noise = torch.randn(shape, generator=generator_of(self.seed, sample)).to(shown.device)
        return carried(
            lambda x, times: self.net.motion(shown, number, x, times), noise, steps=self.card.spec.flow_steps
        )

    def _seen(self, body: Embodiment, places: Array) -> Seen:
        errors = self.card.errors
        parts = np.split(places, len(body.hands), axis=1)
        T = {eef: poses_from(part) for (eef, _), part in zip(body.hands, parts, strict=True)}
        return Seen(
            T_base_eef=T, **{name: np.array(errors[name]) for name in ("place_m", "place_rad", "drift_m", "drift_rad")}
        )


def _seen(clip: Clip, grid: Grid) -> Clip:
    return replace(clip, frames=seen_as(clip.frames, clip.grid, grid), grid=grid)


def poses_from(places: Array) -> Array:
    """Return poses ``(..., 4, 4)`` from positions and rot6d ``(..., 9)``."""
    return poses.pose(poses.matrix_from_rot6d(places[..., 3:]), places[..., :3])


def whole_windows(time: TimeBase, horizon: int, length: int) -> Windows:
    """Return the windows of a clip that end within its own steps: after those, its last picture stays."""
    where = windows(time, horizon=horizon)
    count = int((where.start + horizon <= length).sum())
    return Windows(first=where.first[:count], last=where.last[:count], start=where.start[:count], horizon=horizon)


def open_idm(folder: Path, *, device: str = "cpu", samples: int = 4, seed: int = 0) -> Idm:
    """Open a model. Raises DatasetError when there is none, or its files do not belong together."""
    try:
        said = json.loads((folder / MODEL).read_bytes())
        card = _card_of(said)
        net = network_of(card)
        net.load_state_dict(load_file(folder / said["weights"], device="cpu"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} holds no inverse dynamics model: {MODEL} or the weights it names are missing; "
            "`dreams.idm_training.train_idm` makes one from clips with motion"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SpecError, SafetensorError) as error:
        raise DatasetError(f"{folder} is no readable inverse dynamics model: {error}") from error
    return Idm(card, net.to(device), name=folder.name, samples=samples, seed=seed)


def embodiment_number(card: IdmCard, clip: Clip) -> int:
    """Return which embodiment a clip shows. Raises SpecError for one that is not known, or pictures of another kind."""
    known = {key_of(body.name, dict(body.hands)): i for i, body in enumerate(card.embodiments)}
    key = key_of(clip.embodiment, clip.hands)
    if key not in known:
        raise SpecError(f"clip {clip.name!r}: {unknown_name('embodiment', key, known)}")
    if (clip.time.control_hz, clip.time.stride, clip.grid) != (card.control_hz, card.stride, card.grid):
        raise SpecError(
            f"clip {clip.name!r} has {clip.time.control_hz} Hz, stride {clip.time.stride} and {clip.grid}; the model "
            f"reads {card.control_hz} Hz, stride {card.stride} and {card.grid}"
        )
    return known[key]


def network_of(card: IdmCard) -> IdmNet:
    """Return a network of the card's sizes with random weights."""
    widths = [Widths(motion=len(body.scale), pose=9 * len(body.hands)) for body in card.embodiments]
    return IdmNet(card.spec, card.grid.shape, card.horizon, len(card.offsets), widths, doubts=card.doubts)


def card_json(card: IdmCard) -> dict[str, Any]:
    """Return a card as JSON."""
    said = asdict(card) | {"format": _FORMAT}
    said["embodiments"] = [body.json() for body in card.embodiments]
    return said


def _card_of(said: Mapping[str, Any]) -> IdmCard:
    if said.get("format") != _FORMAT:
        raise ValueError(f"its format is {said.get('format')!r}, expected {_FORMAT!r}")
    fields: dict[str, Any] = {key: value for key, value in said.items() if key not in ("format", "weights")}
    spec: dict[str, Any] = {**fields["spec"], "eye": EyeSpec(**fields["spec"]["eye"])}
    grid: dict[str, Any] = {**fields["grid"], "views": tuple(fields["grid"]["views"])}
    fields["spec"], fields["grid"] = IdmSpec(**spec), Grid(**grid)
    fields["embodiments"] = tuple(Embodiment.of_json(each) for each in fields["embodiments"])
    return IdmCard(**fields)
