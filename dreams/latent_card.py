"""How good latent actions are: are the codes used, do they say what comes, is the true motion in them?

The last question needs clips whose motion is known; the others take any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreams.clips import Clip
from dreams.label_card import interval
from dreams.latents import LatentLabels, LatentModel, latent_labels, rounded
from dreams.motion import names, poses_of
from factory import poses
from factory.errors import SpecError

Array = NDArray[np.float64]
_RIDGE = 1e-2
"""Penalty of the probe, as a share of the number of pairs it is fitted on; features have unit variance."""
_STILL = 1e-4
"""Below this standard deviation, in metres, radians or commands, motion has nothing to be found."""


def latent_card(
    clips: Sequence[Clip], model: LatentModel, *, probe: Sequence[Clip] = (), resamples: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Return the figures of a model on held-out clips.

    Args:
        clips: held out from its training.
        model: the model.
        probe: other clips, with motion, on which the linear probe is fitted; none for no probe.
        resamples: draws for the intervals; whole clips are drawn.
        seed: of these draws.

    Returns:
        `perplexity` of each token's codes (exp of the entropy; the number of codes if all are used alike), and the
        most it could be: codes or pairs; `used_codes`, share of all codes seen at least once, mean of the tokens;
        `collapsed`: whether the mean perplexity is below twice one number's least, so next to nothing is said;
        `closer_to_future`: share of pairs whose prediction is nearer, in mean square of pixels, to x_{t+H} than to x_t,
        with interval; `error_beside_copying`: mean square error of the prediction over that of x_t itself; below 1 the
        codes help; `probe_r2`: for each element of motion over a pair, the share of its variance that a ridge
        regression from the embedding explains on `clips`, with interval; None where nothing moves.
    """
    if not clips:
        raise SpecError("a card needs one held-out clip at least")
    said = [latent_labels(clip, model) for clip in clips]
    seen = [_predictions(clip, model) for clip in clips]
    codes = np.concatenate([each.codes for each in said])
    count = int(np.prod(model.spec.levels))
    perplexity = [_perplexity(codes[:, token]) for token in range(codes.shape[1])]
    card: dict[str, Any] = {
        "pairs": len(codes),
        "clips": len(clips),
        "codes": count,
        "perplexity": [round(each, 3) for each in perplexity],
        "perplexity_at_most": min(count, len(codes)),
        "used_codes": round(float(np.mean([len(np.unique(codes[:, t])) / count for t in range(codes.shape[1])])), 4),
        "collapsed": bool(np.mean(perplexity) < 2.0),
        "closer_to_future": interval(_share, seen, resamples, seed),
        "error_beside_copying": interval(_beside_copying, seen, resamples, seed),
        "model": f"{model.name} {model.version}",
    }
    if probe:
        card["probe_r2"] = _probe(probe, clips, said, model, resamples, seed)
    return card


def _perplexity(codes: NDArray[np.int64]) -> float:
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(np.exp(-(share * np.log(share)).sum()))


def _predictions(clip: Clip, model: LatentModel) -> Array:
    """Return mean squares ``(w, 3)``: prediction from the later picture, prediction from x_t, x_t from the later."""
    _, now, later, values = model.says(clip)
    with torch.no_grad():
        said = model.net.predicted(now, rounded(values)).clamp(-1.0, 1.0)
    found = [((a - b) ** 2).flatten(1).mean(1) for a, b in ((said, later), (said, now), (now, later))]
    return torch.stack(found, dim=1).double().cpu().numpy()


def _share(drawn: Sequence[Array]) -> float:
    rows = np.concatenate(drawn)
    return float(np.mean(rows[:, 0] < rows[:, 1]))


def _beside_copying(drawn: Sequence[Array]) -> float:
    total = np.concatenate(drawn).sum(axis=0)
    return float(total[0] / max(total[2], 1e-12))


def _probe(
    fitted_on: Sequence[Clip], clips: Sequence[Clip], said: Sequence[LatentLabels], model: LatentModel,
    resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    known = [latent_labels(clip, model) for clip in fitted_on]
    x = np.concatenate([each.embedding for each in known]).astype(np.float64)
    y = np.concatenate([moved(clip, each) for clip, each in zip(fitted_on, known, strict=True)])
    middle, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    weights = ridge((x - middle) / spread, y - y.mean(axis=0), penalty=_RIDGE * len(x))
    tested: list[tuple[Array, Array]] = []
    for clip, each in zip(clips, said, strict=True):
        guess = (each.embedding.astype(np.float64) - middle) / spread @ weights + y.mean(axis=0)
        tested.append((moved(clip, each), guess))
    out: dict[str, Any] = {}
    for i, name in enumerate(names(clips[0].hands)):
        moves = np.concatenate([true[:, i] for true, _ in tested]).std() > _STILL
        out[name] = interval(lambda drawn, i=i: _r2(drawn, i), tested, resamples, seed) if moves else None
    return out


def _r2(drawn: Sequence[tuple[Array, Array]], i: int) -> float:
    true, guess = (np.concatenate([each[part][:, i] for each in drawn]) for part in (0, 1))
    return float(1.0 - ((true - guess) ** 2).sum() / max(((true - true.mean()) ** 2).sum(), 1e-12))


def ridge(x: Array, y: Array, *, penalty: float) -> Array:
    """Return the weights ``(d, m)`` that make ``x @ weights`` nearest to y (Hoerl and Kennard 1970)."""
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def moved(clip: Clip, said: LatentLabels) -> Array:
    """Return the true motion over each pair ``(w, m)``: displacement, turn, and the mean command of fingers.

    Raises SpecError for a clip whose motion is not known.
    """
    if clip.motion is None:
        raise SpecError(f"clip {clip.name!r} has no motion to compare latent actions with")
    start = said.where.start
    end = start + said.where.horizon
    path = poses_of(clip.motion, {eef: np.eye(4) for eef in clip.hands}, clip.hands)
    parts: list[Array] = []
    at = 0
    for eef, fingers in clip.hands.items():
        T = path[eef]
        turn = T[end, :3, :3] @ np.swapaxes(T[start, :3, :3], -1, -2)
        spans = [clip.motion[a:b, at + 6 : at + 6 + fingers] for a, b in zip(start, end, strict=True)]
        commands = np.stack([span.mean(axis=0) for span in spans])
        parts += [T[end, :3, 3] - T[start, :3, 3], poses.axis_angle_from_matrix(turn), commands]
        at += 6 + fingers
    return np.concatenate(parts, axis=1)
