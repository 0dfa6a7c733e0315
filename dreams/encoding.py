"""Clips as a video network sees them: encoded once, and kept beside the training that needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreams.clips import Clip
from dreams.path_head import path_of
from dreams.video import DreamModel
from factory import durable
from factory.errors import SpecError

_CHUNK = 64
"""Clips whose latents share a file: what a killed run encodes again at most."""


@dataclass(frozen=True, kw_only=True)
class Encodings:
    """Clips as the network sees them.

    Attributes:
        latents: ``(n, z, t, h, w)``, normalised.
        texts: a sentence each.
        conditions: ``(n, c, t, h, w)`` channels to append; None where the first latent is the condition.
        embeddings: ``(n, k, d)`` of first pictures by an image encoder; None without one.
        paths: ``(n, frames - 1, 3 hands)`` of the hands, see `dreams.path_head`; None unless known of every clip.
        digest: of the pictures and sentences.
    """

    latents: Tensor
    texts: tuple[str, ...]
    conditions: Tensor | None
    embeddings: Tensor | None
    paths: Tensor | None
    digest: str


def encode(model: DreamModel, clips: Iterable[Clip], run: Path) -> Encodings:
    """Return clips encoded; what is encoded stays in the run's folder and is not encoded again.

    Raises SpecError for a clip of another clock or grid than the model's, or none at all.
    """
    run.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Any]] = []
    names: list[str] = []
    for number, chunk in enumerate(_chunks(clips)):
        name = _digest(chunk)
        path = run / f"latents-{number:05d}.safetensors"
        kept = _kept(path, f"{model.digest}/{name}")
        if kept is None:
            kept = _tensors(model, chunk)
            staged = path.with_name(durable.TMP + path.name)
            save_file(kept, staged, metadata={"of": f"{model.digest}/{name}"})
            staged.replace(path)
        parts.append({**kept, "texts": [clip.instruction for clip in chunk]})
        names.append(name)
    if not parts:
        raise SpecError("a video model learns from clips; none was given")
    return _joined(parts, hashlib.sha256("".join(names).encode()).hexdigest()[:16])


def encoded(model: DreamModel, clips: Sequence[Clip]) -> Encodings:
    """Return clips encoded, kept nowhere. Raises like `encode`."""
    return _joined([{**_tensors(model, [clip]), "texts": [clip.instruction]} for clip in clips], _digest(clips))


def _tensors(model: DreamModel, clips: Sequence[Clip]) -> dict[str, Tensor]:
    for clip in clips:
        model.card.expect(clip.time, clip.grid, where=f"the model that clip {clip.name!r} is to train")
    found = {"latents": torch.cat([model.latents(clip.frames[None]).cpu() for clip in clips])}
    if model.layout.conditioning == "channel_concat":
        conditions, embeddings = zip(*(model.condition(clip.frames[0]) for clip in clips), strict=True)
        found["conditions"] = torch.cat([each.cpu() for each in conditions])
        if embeddings[0] is not None:
            found["embeddings"] = torch.cat([each.cpu().float() for each in embeddings])
    paths = [path for clip in clips if (path := path_of(clip)) is not None]
    if len(paths) == len(clips):
        found["paths"] = torch.stack(paths)
    return found


def _joined(parts: Sequence[dict[str, Any]], digest: str) -> Encodings:
    keys = set(parts[0]).intersection(*parts) - {"texts"}
    joined = {key: torch.cat([part[key] for part in parts]) for key in sorted(keys)}
    return Encodings(
        latents=joined["latents"],
        texts=tuple(text for part in parts for text in part["texts"]),
        conditions=joined.get("conditions"),
        embeddings=joined.get("embeddings"),
        paths=joined.get("paths"),
        digest=digest,
    )


def _chunks(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    chunk: list[Clip] = []
    for clip in clips:
        chunk.append(clip)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _digest(clips: Sequence[Clip]) -> str:
    found = hashlib.sha256(json.dumps([[clip.instruction, clip.frames.shape] for clip in clips]).encode())
    for clip in clips:
        found.update(clip.frames.tobytes())
    return found.hexdigest()


def _kept(path: Path, of: str) -> dict[str, Tensor] | None:
    """Return a chunk's tensors; None where the file is missing, of other clips, or damaged: it is then made again."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("of") != of:
                return None
        return load_file(path)
    except (OSError, SafetensorError):
        return None
