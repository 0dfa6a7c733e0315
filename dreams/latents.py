"""Latent actions: what changed between two pictures, in a few numbers that need no robot and no label.

After LAPA (Ye et al. 2025, "Latent Action Pretraining from Videos"): an encoder looks at x_t and x_{t+H} and may say
only a few codes; a decoder makes x_{t+H} from x_t and them. The codes are finite scalar quantisation (Mentzer et al.
2023, "Finite Scalar Quantization: VQ-VAE Made Simple"), which has no codebook that could die. The label is the vector
before it is rounded, as GR00T N1 uses it. The decoder sees x_t through weights of its own, so nothing of x_{t+H} comes
to it but the codes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dreams.clips import Clip
from dreams.descent import Schedule, descend, publish
from dreams.timebase import Windows
from dreams.vision import Block, Eye, EyeSpec, Patches, as_input, varied
from factory.durable import json_bytes
from factory.errors import DatasetError, SpecError

Array = NDArray[np.float64]
MODEL = "model.json"
_FORMAT = "latent-actions/1"
_MOVING = 10.0
"""How much more a pixel that changes fully counts than one that stays: robots are small, backgrounds are not."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a latent action model is like.

    Attributes:
        eye: of the encoder; the decoder has patches of the same size.
        layers: blocks that compare the two pictures, and as many that make the later one.
        tokens: codes of one action.
        levels: values that each number of a code may take, 2 or more; their product is the number of codes.
        apart_s: seconds from x_t to x_{t+H}; a clip's nearest whole number of pictures is taken.
        jitter: how far light varies in training; likewise noise, as in `IdmSpec`.
        noise: see jitter.
    """

    eye: EyeSpec = field(default_factory=lambda: EyeSpec(width=96, layers=1))
    layers: int = 2
    tokens: int = 4
    levels: tuple[int, ...] = (5, 5, 5)
    apart_s: float = 0.8
    jitter: float = 0.1
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.layers < 1 or self.tokens < 1 or not self.levels or min(self.levels) < 2 or self.apart_s <= 0.0:
            raise SpecError(f"layers, tokens and seconds are positive, levels 2 or more: {self}")

    def apart(self, clip: Clip) -> int:
        """Return how many pictures x_{t+H} is after x_t in a clip. Raises SpecError for a clip that is too short."""
        pictures = max(1, round(self.apart_s * float(clip.time.video_hz)))
        if pictures >= clip.time.frames:
            raise SpecError(f"clip {clip.name!r} is shorter than the {self.apart_s} s that an action lasts")
        return pictures


def bounded(values: Tensor, levels: Sequence[int]) -> Tensor:
    """Return values ``(..., len(levels))`` of any size as ones whose nearest whole numbers are the levels.

    Mentzer et al. (2023), equation 2 and appendix A.1: an odd number of levels lies around 0, an even one half beside.
    """
    count = torch.tensor(levels, dtype=values.dtype, device=values.device)
    half = 0.5 * (count - 1) * (1.0 + 1e-3)
    offset = torch.where(count % 2 == 0, 0.5, 0.0).to(values.dtype)
    return torch.tanh(values + torch.atanh(offset / half)) * half - offset


def rounded(values: Tensor) -> Tensor:
    """Return whole numbers whose gradient is that of the values themselves (straight through)."""
    return values + (values.round() - values).detach()


def codes_of(values: NDArray[np.float64], levels: Sequence[int]) -> NDArray[np.int64]:
    """Return the number ``(...)`` of the code nearest to bounded values, from 0 to the product of the levels - 1."""
    digits = np.rint(values).astype(np.int64) + np.array([level // 2 for level in levels])
    places = np.cumprod([1, *levels[:-1]])
    return np.asarray((digits * places).sum(axis=-1), np.int64)


class LatentNet(nn.Module):
    """Encoder of what changed, decoder of what it makes."""

    def __init__(self, spec: LatentSpec, shape_px: tuple[int, int]) -> None:
        """Make it with random weights."""
        super().__init__()
        width, heads = spec.eye.width, spec.eye.heads
        self.levels, self.tokens, self.shape_px, self.patch = spec.levels, spec.tokens, shape_px, spec.eye.patch_px
        self.sees, self.imagines = Eye(spec.eye, shape_px), Patches(spec.eye, shape_px)
        self.which = nn.Parameter(torch.randn(2, 1, width) * 0.02)
        self.query = nn.Parameter(torch.randn(1, spec.tokens, width) * 0.02)
        self.compare = nn.ModuleList(Block(width, heads) for _ in range(spec.layers))
        self.say = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(spec.levels)))
        # Numbers that hardly differ between examples all round to one code, the decoder learns to do without, and they
        # stay so. With unit variance every level is in use from the first step.
        self.spread = nn.BatchNorm1d(spec.tokens * len(spec.levels), momentum=0.05, affine=False)
        self.hear = nn.Linear(len(spec.levels), width)
        self.everywhere = nn.Linear(spec.tokens * len(spec.levels), 2 * width)
        self.place = nn.Parameter(torch.randn(1, spec.tokens, width) * 0.02)
        self.make = nn.ModuleList(Block(width, heads) for _ in range(spec.layers))
        self.last = nn.LayerNorm(width)
        self.paint, self.shift = nn.Linear(width, 3 * self.patch**2), nn.Linear(width, 2)
        for start in (self.paint, self.shift):  # so that it begins near a copy, and has to say only what changes
            nn.init.normal_(start.weight, std=0.01)
            nn.init.zeros_(start.bias)

    def embedding(self, now: Tensor, later: Tensor) -> Tensor:
        """Return ``(b, tokens, len(levels))`` before rounding, of pictures ``(b, 3, h, w)``."""
        a, b = self.sees(torch.cat([now, later])).chunk(2)
        tokens = torch.cat([self.query.expand(len(now), -1, -1), a + self.which[0], b - a + self.which[1]], dim=1)
        for block in self.compare:
            tokens = block(tokens)
        said = self.say(tokens[:, : self.tokens])
        return bounded(self.spread(said.flatten(1)).view_as(said), self.levels)

    def predicted(self, now: Tensor, whole: Tensor) -> Tensor:
        """Return the later picture ``(b, 3, h, w)`` that codes ``(b, tokens, len(levels))`` make of the one now."""
        half = torch.tensor(self.levels, dtype=whole.dtype, device=whole.device) / 2.0
        codes = whole / half
        gain, shift = self.everywhere(codes.flatten(1))[:, None].chunk(2, dim=-1)
        patches = self.imagines(now)[1] * (1.0 + gain) + shift
        tokens = torch.cat([self.hear(codes) + self.place, patches], dim=1)
        for block in self.make:
            tokens = block(tokens)
        rows, columns = (side // self.patch for side in self.shape_px)
        patches = self.last(tokens[:, self.tokens :]).unflatten(1, (rows, columns))
        change = self.paint(patches).unflatten(-1, (3, self.patch, self.patch)).permute(0, 3, 1, 4, 2, 5)
        return _shifted(now, self.shift(patches).movedim(-1, 1)) + change.flatten(4).flatten(2, 3)


def _shifted(pictures: Tensor, shift: Tensor) -> Tensor:
    """Return pictures ``(b, c, h, w)`` that show at each place what was `shift` ``(b, 2, rows, columns)`` beside it.

    Shifts are in halves of the picture, x then y, and smooth between patches (Jaderberg et al. 2015, "Spatial
    Transformer Networks"). Most of what changes has moved, and to say so takes fewer numbers than to paint it.
    """
    smooth = functional.interpolate(shift, size=pictures.shape[2:], mode="bilinear", align_corners=False)
    still = torch.eye(2, 3, device=pictures.device, dtype=pictures.dtype).expand(len(pictures), -1, -1)
    grid = functional.affine_grid(still, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid + smooth.movedim(1, -1), padding_mode="border", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class LatentLabels:
    """The latent actions of a clip.

    Attributes:
        where: the pairs of pictures, in the order of time, wholly within the clip's own steps.
        embedding: ``(w, tokens * len(levels))``: the label, before rounding, each number scaled to [-1, 1].
        codes: ``(w, tokens)``: number of each code.
        model: which model said so; likewise version.
        version: see model.
    """

    where: Windows
    embedding: NDArray[np.float32]
    codes: NDArray[np.int64]
    model: str
    version: str


class LatentModel:
    """A model that is loaded."""

    def __init__(self, spec: LatentSpec, net: LatentNet, *, name: str, version: str, about: Mapping[str, Any]) -> None:
        """Hold it. `about` is what its folder says of it."""
        self.spec, self.net, self.name, self.version, self.about = spec, net.eval(), name, version, about

    def says(self, clip: Clip) -> tuple[Windows, Tensor, Tensor, Tensor]:
        """Return the clip's pairs, both pictures of each ``(w, 3, h, w)``, and embeddings ``(w, tokens, levels)``."""
        if clip.grid.shape != self.net.shape_px:
            raise SpecError(f"clip {clip.name!r} shows {clip.grid.shape} pixels, {self.name} reads {self.net.shape_px}")
        where = pairs(clip, self.spec)
        if not len(where.first):
            raise SpecError(f"clip {clip.name!r} has {clip.length} steps, an action lasts {where.horizon}")
        pictures = as_input(torch.from_numpy(clip.frames).to(next(self.net.parameters()).device))
        now, later = pictures[torch.from_numpy(where.first)], pictures[torch.from_numpy(where.last)]
        with torch.no_grad():
            return where, now, later, self.net.embedding(now, later)


def pairs(clip: Clip, spec: LatentSpec) -> Windows:
    """Return the pairs of pictures that lie an action apart within the clip's own steps."""
    apart = spec.apart(clip)
    first = np.arange(clip.time.frames - apart)
    first = first[(first + apart) * clip.time.stride <= clip.length]
    stride = clip.time.stride
    return Windows(first=first, last=first + apart, start=first * stride, horizon=apart * stride)


def latent_labels(clip: Clip, model: LatentModel) -> LatentLabels:
    """Return the latent actions of a clip. Raises SpecError for one of another size, or shorter than an action."""
    where, _, _, values = model.says(clip)
    half = np.array([0.5 * level for level in model.spec.levels])
    numbers = values.double().cpu().numpy()
    return LatentLabels(
        where=where,
        embedding=(numbers / half).reshape(len(numbers), -1).astype(np.float32),
        codes=codes_of(numbers, model.spec.levels),
        model=model.name,
        version=model.version,
    )


def train_latents(
    clips: Sequence[Clip],
    folder: Path,
    spec: LatentSpec,
    schedule: Schedule,
    *,
    max_s: float = math.inf,
    device: str = "cpu",
) -> LatentModel:
    """Train a model on clips, with or without motion, or go on where `folder` was left; return it.

    Raises:
        SpecError: no clips, or of different sizes, or all shorter than an action.
        DatasetError: the folder holds another training.
    """
    if len({clip.grid.shape for clip in clips}) != 1:
        raise SpecError(f"latent actions need clips of one size; found {sorted({clip.grid.shape for clip in clips})}")
    found = [(i, *pair) for i, clip in enumerate(clips) for pair in zip(*_ends(clip, spec), strict=True)]
    if not found:
        raise SpecError(f"no clip has two of its own pictures that lie {spec.apart_s} s apart")
    torch.manual_seed(schedule.seed)
    net = LatentNet(spec, clips[0].grid.shape).to(device)
    frames = [torch.from_numpy(clip.frames) for clip in clips]

    def loss(generator: torch.Generator) -> Mapping[str, Tensor]:
        picks = [found[int(i)] for i in torch.randint(len(found), (schedule.batch,), generator=generator)]
        both = as_input(torch.stack([frames[i][[first, last]] for i, first, last in picks]).to(device))
        now, later = varied(both, generator, jitter=spec.jitter, noise=spec.noise).unbind(1)
        said = net.predicted(now, rounded(net.embedding(now, later)))
        return {"pixels": (_weights(now, later) * (said - later) ** 2).mean()}

    digest = hashlib.sha256(b"".join(clip.frames.tobytes() for clip in clips)).hexdigest()
    about: dict[str, Any] = {
        "format": _FORMAT, "spec": json.loads(json_bytes(asdict(spec))), "shape_px": list(net.shape_px),
        "clips": [clip.name for clip in clips], "pixels": digest, "schedule": asdict(schedule),
    }  # fmt: skip
    done = descend(net, loss, folder / "training", schedule, about=about, max_s=max_s)
    about |= {"done": done}
    version = publish(net, folder, MODEL, about)
    return LatentModel(spec, net, name=folder.name, version=version, about=about)


def open_latents(folder: Path, *, device: str = "cpu") -> LatentModel:
    """Open a model. Raises DatasetError when there is none, or its files do not belong together."""
    try:
        said = json.loads((folder / MODEL).read_bytes())
        spec = _spec_of(said)
        net = LatentNet(spec, (said["shape_px"][0], said["shape_px"][1]))
        net.load_state_dict(load_file(folder / said["weights"], device="cpu"))
    except FileNotFoundError as error:
        raise DatasetError(f"{folder} holds no latent action model: {error.filename} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SpecError, SafetensorError) as error:
        raise DatasetError(f"{folder} is no readable latent action model: {error}") from error
    return LatentModel(spec, net.to(device), name=folder.name, version=said["version"], about=said)


def _spec_of(said: Mapping[str, Any]) -> LatentSpec:
    if said["format"] != _FORMAT:
        raise ValueError(f"its format is {said['format']!r}, expected {_FORMAT!r}")
    raw: dict[str, Any] = {
        **said["spec"],
        "levels": tuple(said["spec"]["levels"]),
        "eye": EyeSpec(**said["spec"]["eye"]),
    }
    return LatentSpec(**raw)


def _ends(clip: Clip, spec: LatentSpec) -> tuple[list[int], list[int]]:
    where = pairs(clip, spec)
    return where.first.tolist(), where.last.tolist()


def _weights(now: Tensor, later: Tensor) -> Tensor:
    """Return how much each pixel counts ``(b, 1, h, w)``: more where something moved."""
    return 1.0 + _MOVING * (later - now).abs().mean(dim=1, keepdim=True).clamp(max=1.0)
