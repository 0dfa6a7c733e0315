"""How good labels are, in figures with intervals: the cards of the inverse dynamics model and of latent actions.

Every figure is of clips that no training has seen. Intervals are of 95 %, by drawing whole episodes anew (Efron 1979):
steps of one episode resemble each other, so they are never drawn one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreams.clips import Clip
from dreams.motion import Labels, parted
from factory import poses
from factory.errors import SpecError

Array = NDArray[np.float64]
_FARTHEST = 8
"""Control steps up to which a shift in time is looked for."""
_WINDOW_S = 0.5
"""Displacements over this long are compared: long enough to rise above the error of one step."""


@dataclass(frozen=True, kw_only=True)
class _Episode:
    """What one clip adds to the figures; sums, so that clips can be drawn anew without reading them again."""

    mean: Mapping[str, float]
    lengths: tuple[float, float, float, float]
    shifted: Array
    changes: tuple[int, int, int]


def idm_card(
    pairs: Sequence[tuple[Clip, Labels]], *, tolerance: int = 1, resamples: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Return the figures of labels beside the motion their clips really show.

    Args:
        pairs: held-out clips with their motion, and the labels that a model gave them.
        tolerance: pictures by which a gripper may be told to open or close too early or too late.
        resamples: draws for the intervals.
        seed: of these draws.

    Returns:
        Figures, each ``{"value", "low", "high"}``: position errors in millimetres and turns in degrees, of a step, of
        0.5 s, of the whole path at its end and at its worst, its start given; `amplitude_ratio`, labelled length of
        0.5 s displacements over the true length; `gain`, the share of the true displacement that is in the labelled
        one (noise does not raise it); `shift_steps`, positive where labels come late; `gripper_f1` of openings and
        closings; `gripper_agreement`, share of steps. `confidence`: rank correlation with the error of a step, and the
        mean error in each quarter of the steps, least confident first. Counts.

    Raises:
        SpecError: no clips, or clips and labels that do not fit.
    """
    if not pairs:
        raise SpecError("a card needs one held-out clip with labels at least")
    for clip, labels in pairs:
        if clip.motion is None or clip.motion.shape != labels.motion.shape:
            found = None if clip.motion is None else clip.motion.shape
            raise SpecError(f"clip {clip.name!r}: true motion is {found}, labels are {labels.motion.shape}")
    episodes = [_episode(clip, labels, tolerance * clip.time.stride) for clip, labels in pairs]
    figures: dict[str, Callable[[Sequence[_Episode]], float]] = {
        name: lambda drawn, name=name: float(np.mean([each.mean[name] for each in drawn])) for name in episodes[0].mean
    }
    figures |= {"amplitude_ratio": _ratio, "gain": _gain, "shift_steps": _shift, "gripper_f1": _f1}
    card = {name: interval(figure, episodes, resamples, seed) for name, figure in figures.items()}
    return {
        **card,
        "confidence": _calibration(pairs),
        "episodes": len(pairs),
        "steps": sum(len(labels.motion) for _, labels in pairs),
        "gripper_tolerance_steps": tolerance * pairs[0][0].time.stride,
        "models": sorted({f"{labels.model} {labels.version}" for _, labels in pairs}),
    }


def _episode(clip: Clip, labels: Labels, tolerance: int) -> _Episode:
    assert clip.motion is not None  # noqa: S101 - checked before
    span = min(max(1, round(_WINDOW_S * clip.time.control_hz)), clip.length)
    errors: dict[str, list[float]] = {}
    lengths, shifted, changes = np.zeros(4), np.zeros((2 * _FARTHEST + 1, 3)), np.zeros(3, int)
    said = parted(labels.motion, clip.hands)
    for eef, true in parted(clip.motion, clip.hands).items():
        mine = said[eef]
        path, known = (np.concatenate([np.zeros((1, 3)), np.cumsum(part[:, :3], axis=0)]) for part in (mine, true))
        turn, kept = _turned(mine), _turned(true)
        off = 1e3 * np.linalg.norm(path - known, axis=1)
        d_mine, d_true = path[span:] - path[:-span], known[span:] - known[:-span]
        over = [np.swapaxes(R[:-span], -1, -2) @ R[span:] for R in (turn, kept)]
        for name, values in {
            "step_mm": 1e3 * np.linalg.norm(mine[:, :3] - true[:, :3], axis=1),
            "step_deg": np.degrees(poses.angle_between(*(_turns(part) for part in (mine, true)))),
            "half_second_mm": 1e3 * np.linalg.norm(d_mine - d_true, axis=1),
            "half_second_deg": np.degrees(poses.angle_between(over[0], over[1])),
            "path_end_mm": off[-1:],
            "path_worst_mm": off.max(keepdims=True),
            "path_end_deg": np.degrees(poses.angle_between(turn[-1:], kept[-1:])),
            "gripper_agreement": np.float64(_closed(mine, true) == _closed(true, true)),
        }.items():
            errors.setdefault(name, []).append(float(np.mean(values)))
        lengths += [np.linalg.norm(d_mine, axis=1).sum(), np.linalg.norm(d_true, axis=1).sum(),
                    (d_mine * d_true).sum(), (d_true**2).sum()]  # fmt: skip
        shifted += _products(mine[:, :3], true[:, :3])
        changes += _matched(_closed(mine, true), _closed(true, true), tolerance)
    return _Episode(
        mean={name: float(np.mean(each)) for name, each in errors.items()},
        lengths=(lengths[0], lengths[1], lengths[2], lengths[3]), shifted=shifted,
        changes=(int(changes[0]), int(changes[1]), int(changes[2])),
    )  # fmt: skip


def _turns(part: Array) -> Array:
    return poses.matrix_from_axis_angle(part[:, 3:6])


def _turned(part: Array) -> Array:
    """Return the rotations ``(T + 1, 3, 3)`` gone through from none."""
    R = [np.eye(3)]
    for each in _turns(part):
        R.append(each @ R[-1])
    return np.stack(R)


def _closed(part: Array, true: Array) -> NDArray[np.bool_]:
    """Return ``(T, g)``: whether each finger command is in the upper half of what this episode's commands are."""
    fingers = true[:, 6:]
    return part[:, 6:] > 0.5 * (fingers.min(axis=0) + fingers.max(axis=0))


def _matched(mine: NDArray[np.bool_], true: NDArray[np.bool_], tolerance: int) -> NDArray[np.int64]:
    """Return how many changes are in both within `tolerance` steps, only in the labels, only in the truth."""
    out = np.zeros(3, np.int64)
    for column in range(true.shape[1]):
        for upwards in (True, False):
            said, known = (
                list(np.flatnonzero((np.diff(each[:, column].astype(int)) > 0) if upwards
                                    else (np.diff(each[:, column].astype(int)) < 0)))
                for each in (mine, true)
            )  # fmt: skip
            both = 0
            for at in known:
                near = [step for step in said if abs(step - at) <= tolerance]
                if near:
                    said.remove(min(near, key=lambda step: abs(step - at)))
                    both += 1
            out += [both, len(said), len(known) - both]
    return out


def _products(mine: Array, true: Array) -> Array:
    """Return, for each shift, the sums of products of labels moved back by it with the truth, and of both squares."""
    rows = np.arange(len(true))
    out = np.zeros((2 * _FARTHEST + 1, 3))
    for i, shift in enumerate(range(-_FARTHEST, _FARTHEST + 1)):
        inside = rows[(rows + shift >= 0) & (rows + shift < len(true))]
        a, b = mine[inside + shift], true[inside]
        out[i] = (a * b).sum(), (a * a).sum(), (b * b).sum()
    return out


def _shift(drawn: Sequence[_Episode]) -> float:
    total = np.sum([each.shifted for each in drawn], axis=0)
    return float(np.argmax(total[:, 0] / np.sqrt(np.maximum(total[:, 1] * total[:, 2], 1e-30))) - _FARTHEST)


def _ratio(drawn: Sequence[_Episode]) -> float:
    mine, true = np.sum([each.lengths[:2] for each in drawn], axis=0)
    return float(mine / max(true, 1e-12))


def _gain(drawn: Sequence[_Episode]) -> float:
    both, true = np.sum([each.lengths[2:] for each in drawn], axis=0)
    return float(both / max(true, 1e-12))


def _f1(drawn: Sequence[_Episode]) -> float:
    both, mine, true = np.sum([each.changes for each in drawn], axis=0)
    return float(2 * both / (2 * both + mine + true)) if both + mine + true else 1.0


def interval(
    figure: Callable[[Sequence[Any]], float], episodes: Sequence[Any], resamples: int, seed: int
) -> dict[str, float]:
    """Return the figure, and the 2.5 % and 97.5 % quantiles of what it is for as many episodes drawn anew."""
    random = np.random.default_rng(seed)
    draws = random.integers(len(episodes), size=(resamples, len(episodes)))
    drawn = [figure([episodes[i] for i in draw]) for draw in draws]
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn else (np.nan, np.nan)
    return {"value": round(figure(episodes), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _calibration(pairs: Sequence[tuple[Clip, Labels]]) -> dict[str, Any]:
    errors = np.concatenate([_position_errors(clip, labels) for clip, labels in pairs])
    confidence = np.concatenate([labels.confidence for _, labels in pairs])
    order = np.argsort(confidence, kind="stable")
    quarters = [1e3 * float(part.mean()) if len(part) else None for part in np.array_split(errors[order], 4)]
    return {
        "rank_correlation": round(_rank_correlation(confidence, errors), 4),
        "step_mm_by_quarter": [None if each is None else round(each, 4) for each in quarters],
    }


def _position_errors(clip: Clip, labels: Labels) -> Array:
    assert clip.motion is not None  # noqa: S101 - checked before
    said, true = parted(labels.motion, clip.hands), parted(clip.motion, clip.hands)
    return np.mean([np.linalg.norm(said[eef][:, :3] - true[eef][:, :3], axis=1) for eef in clip.hands], axis=0)


def _rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's (1904) correlation, ties sharing their mean rank; 0 where one of the two never changes."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - 0.5 * (counts - 1))[inverse])
    spread = ranks[0].std() * ranks[1].std()
    return float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())) / spread) if spread else 0.0
