"""Demonstrations: what a file holds, and what it means once a backend has read its states.

`read_demos` knows four formats by their structure and returns what is stored: nothing in a file is executed or
followed, and a stored simulator model is not even parsed. `write_demos` writes the project's own format.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from factory.errors import DemoError
from factory.hdf5 import CheckedFile, Limits, open_checked
from factory.isaac_states import order_of_file, reordered
from factory.scene import SceneState

Array = NDArray[np.float64]

SEED_FORMAT = "trajectory-factory-demos"
SEED_VERSION = 1

_CANONICAL_COMPRESSION = 4
"""A third of the time of 9 for one percent more room: somebody waits for it."""

_FORMATS = (
    "a robosuite collection (/data attribute 'env'), robomimic or MimicGen ('env_args'), "
    f"Isaac Lab Mimic ('env_args' of type 2) or this project's own (attribute format={SEED_FORMAT!r})"
)
_ISAACLAB_TYPE = 2
"""robomimic's number for environments of Isaac Lab, in `env_args`."""
_POSE_TOLERANCE = 1e-3
"""Entries of R^T R - 1 and of the bottom row; float32 poses of long kinematic chains stay far below."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demonstration as stored; what the file does not hold is empty.

    Attributes:
        name: the demo's key in its file ("demo_3").
        path: the file it came from.
        format: "robosuite", "robomimic", "isaaclab" or "seeds".
        environment: the environment's name as written in the file.
        control_hz: rate of actions, when the file says it.
        actions: ``(T, a)``.
        states: flat simulator states ``(T, n)`` or ``(T + 1, n)``: time, qpos, qvel; of Isaac Lab time, the action that
            led there, and the scene's arrays, see `isaac_states`; empty when not stored.
        T_world_eef: end effector -> ``(T, 4, 4)``, when stored; likewise the next ones.
        T_world_eef_target: end effector -> ``(T, 4, 4)``.
        gripper: end effector -> ``(T, g)`` commands.
        T_world_object: object name as in the file -> ``(T, 4, 4)``.
        signals: signal name as in the file -> ``(T,)`` bool.
        attributes: other facts worth showing (date, versions, success flag), as text.
    """

    name: str
    path: str
    format: str
    environment: str
    control_hz: float | None = None
    actions: Array
    states: Array = field(default_factory=lambda: np.empty((0, 0)))
    T_world_eef: Mapping[str, Array] = field(default_factory=dict)
    T_world_eef_target: Mapping[str, Array] = field(default_factory=dict)
    gripper: Mapping[str, Array] = field(default_factory=dict)
    T_world_object: Mapping[str, Array] = field(default_factory=dict)
    signals: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, kw_only=True)
class AnnotatedDemo:
    """A demo in the task's own names, ready to be cut and carried. All arrays have length T.

    Row t holds what was measured *before* action t and what action t asked for.

    Attributes:
        name: unique among the sources of a job.
        T_world_eef: end effector -> ``(T, 4, 4)`` measured hand poses.
        T_world_eef_target: end effector -> ``(T, 4, 4)``: measured pose composed with the recorded, unclipped action.
        gripper: end effector -> ``(T, g)`` commands.
        T_world_object: object -> ``(T, 4, 4)``.
        signals: task signal -> ``(T,)`` bool; stored ones under the task's names, or evaluated predicates.
        stored_signals: names of the signals that came from the file.
        scene: full states, when the demo's simulator states could be read; None for pose-only files.
        success: whether the task's success predicate is true at the last state; None when unknown.
    """

    name: str
    T_world_eef: Mapping[str, Array]
    T_world_eef_target: Mapping[str, Array]
    gripper: Mapping[str, Array]
    T_world_object: Mapping[str, Array]
    signals: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    stored_signals: frozenset[str] = frozenset()
    scene: SceneState | None = None
    success: bool | None = None

    def __post_init__(self) -> None:
        n = len(self)
        groups = {
            "T_world_eef": self.T_world_eef,
            "T_world_eef_target": self.T_world_eef_target,
            "gripper": self.gripper,
            "T_world_object": self.T_world_object,
            "signals": self.signals,
        }
        for group, arrays in groups.items():
            for key, array in arrays.items():
                if len(array) != n:
                    raise DemoError(
                        f"demo {self.name!r}: {group}[{key!r}] has {len(array)} rows where {n} are expected"
                    )

    def __len__(self) -> int:
        return len(next(iter(self.T_world_eef.values())))


def read_demos(path: Path | str, *, name: str | None = None, limits: Limits | None = None) -> tuple[Demo, ...]:
    """Return the demonstrations of an HDF5 file, `demo_2` before `demo_10`.

    Every array is float64 (signals bool), finite, and as long as the demo's actions; poses are rigid. Errors call the
    file `name`, by default its path.

    Raises:
        DemoError: one sentence with the file, the key, what was found there and what would be accepted.
    """
    with open_checked(path, limits, name=name) as f:
        if f.attribute("/", "format") == SEED_FORMAT:
            return _read_seeds(f)
        if not f.has_group("data"):
            raise f.error("data", f"is missing, the file holds {f.children('/')}; expected {_FORMATS}")
        names = sorted(f.children("data"), key=_natural)
        if not names:
            raise f.error("data", "holds no demonstrations; at least one group 'demo_...' is expected")
        read_one = _reader(f, names[0])
        demos = tuple(read_one(f, name) for name in names)
    _check_widths(f, demos)
    return demos


def write_demos(path: Path | str, demos: Sequence[Demo]) -> None:
    """Write demos in the project's own format so that `read_demos` returns them equal in every field and bit.

    The same demos give the same bytes. The file appears at once, whole, under its name.

    Raises:
        DemoError: a demo that `read_demos` would refuse.
        OSError: the file cannot be written.
    """
    path = Path(path)
    image = demos_image(demos, name=str(path))
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(image)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def demos_image(demos: Sequence[Demo], *, name: str = "demos", compression: int = 9) -> bytes:
    """Return the bytes of the file that `write_demos` writes; errors call it `name`.

    A `compression` of 4 takes a third of the time of 9 and one percent more room.

    Raises:
        DemoError: a demo that `read_demos` would refuse.
    """
    # Built in memory: libhdf5 crashes the process when the disk fills while it closes a file.
    with h5py.File("demos", "w", driver="core", backing_store=False) as f:
        f.attrs["format"], f.attrs["version"] = SEED_FORMAT, SEED_VERSION
        data = f.create_group("data")
        for i, demo in enumerate(demos):
            _write_seed(data.create_group(f"demo_{i}"), demo, f"{name}: 'data/demo_{i}", compression)
        f.flush()
        return f.id.get_file_image()


def canonical_image(demos: Sequence[Demo], *, name: str = "demos") -> bytes:
    """Return the bytes that stand for these demos wherever their files lay: equal demos, equal bytes.

    Raises:
        DemoError: a demo that `read_demos` would refuse.
    """
    return demos_image([replace(demo, path="") for demo in demos], name=name, compression=_CANONICAL_COMPRESSION)


def _reader(f: CheckedFile, first: str) -> Callable[[CheckedFile, str], Demo]:
    if f.attribute("data", "env_args") is not None:
        isaac = _env_args(f).get("type") == _ISAACLAB_TYPE or f.has_group(f"data/{first}/obs/datagen_info")
        return _read_isaaclab if isaac else _read_robomimic
    if f.attribute("data", "env") is not None:
        return _read_robosuite
    raise f.error("data", f"has neither attribute 'env_args' nor 'env', so its format is unknown; expected {_FORMATS}")


# ---- one reader per format ------------------------------------------------------------------------------------------


def _read_robosuite(f: CheckedFile, name: str) -> Demo:
    """What robosuite's collection script writes: states and actions; `model_file` stays untouched."""
    base = f"data/{name}"
    actions = _actions(f, base)
    info = _json(f, "env_info")
    return Demo(
        name=name,
        path=str(f.path),
        format="robosuite",
        environment=_text(f.attribute("data", "env")),
        control_hz=_rate(info.get("control_freq")),
        actions=actions,
        states=_states(f, base, len(actions), required=True),
        attributes=_facts(f, base, "date", "time", "repository_version", "env_info"),
    )


def _read_robomimic(f: CheckedFile, name: str) -> Demo:
    """Robomimic's layout, with MimicGen's `datagen_info` where a file was prepared for it; `obs` is not needed."""
    base, info = f"data/{name}", f"data/{name}/datagen_info"
    actions = _actions(f, base)
    rows, args = len(actions), _env_args(f)
    kwargs = args.get("env_kwargs")
    return Demo(
        name=name,
        path=str(f.path),
        format="robomimic",
        environment=_text(args.get("env_name")),
        control_hz=_rate(kwargs.get("control_freq") if isinstance(kwargs, dict) else None),
        actions=actions,
        states=_states(f, base, rows, required=not f.has_group(info)),
        T_world_eef=_all(f, f"{info}/eef_pose", rows, _poses),
        T_world_eef_target=_all(f, f"{info}/target_pose", rows, _poses),
        gripper=_all(f, f"{info}/gripper_action", rows, _rows),
        T_world_object=_all(f, f"{info}/object_poses", rows, _poses),
        signals=_all(f, f"{info}/subtask_term_signals", rows, _truths),
        attributes=_facts(f, base, "env_args", "success"),
    )


def _read_isaaclab(f: CheckedFile, name: str) -> Demo:
    """Isaac Lab Mimic's annotated layout; states are named arrays, read where the start and all steps are stored."""
    base, info = f"data/{name}", f"data/{name}/obs/datagen_info"
    if not f.has_group(info):
        raise f.error(
            info, "is missing; an Isaac Lab file must be annotated first (eef_pose, target_eef_pose, object_pose)"
        )
    actions = _actions(f, base)
    rows, args = len(actions), _env_args(f)
    return Demo(
        name=name,
        path=str(f.path),
        format="isaaclab",
        environment=_text(args.get("env_name")),
        control_hz=_isaaclab_rate(args),
        actions=actions,
        states=_isaaclab_states(f, base, actions, _isaaclab_rate(args)),
        T_world_eef=_all(f, f"{info}/eef_pose", rows, _poses, required=True),
        T_world_eef_target=_all(f, f"{info}/target_eef_pose", rows, _poses, required=True),
        T_world_object=_all(f, f"{info}/object_pose", rows, _poses),
        signals=_all(f, f"{info}/subtask_term_signals", rows, _truths),
        attributes=_facts(f, base, "env_args", "success", "seed"),
    )


def _read_seeds(f: CheckedFile) -> tuple[Demo, ...]:
    version = f.attribute("/", "version")
    if version != SEED_VERSION:
        raise f.error("/", f"has version {version!r} of {SEED_FORMAT}; this reader knows version {SEED_VERSION}")
    names = sorted(f.children("data"), key=_natural)
    if not names:
        raise f.error("data", "holds no demonstrations; at least one group 'demo_...' is expected")
    return tuple(_read_seed(f, f"data/{name}") for name in names)


def _read_seed(f: CheckedFile, base: str) -> Demo:
    actions = _actions(f, base)
    rows = len(actions)
    states = {"states": _states(f, base, rows, required=True)} if f.has_array(f"{base}/states") else {}
    return Demo(
        name=_text(f.attribute(base, "name")),
        path=_text(f.attribute(base, "path")),
        format=_text(f.attribute(base, "format")),
        environment=_text(f.attribute(base, "environment")),
        control_hz=_rate(f.attribute(base, "control_hz")),
        actions=actions,
        T_world_eef=_all(f, f"{base}/T_world_eef", rows, _poses),
        T_world_eef_target=_all(f, f"{base}/T_world_eef_target", rows, _poses),
        gripper=_all(f, f"{base}/gripper", rows, _rows),
        T_world_object=_all(f, f"{base}/T_world_object", rows, _poses),
        signals=_all(f, f"{base}/signals", rows, _truths),
        attributes={key: _text(value) for key, value in _json(f, "attributes", base).items()},
        **states,
    )


def _write_seed(group: h5py.Group, demo: Demo, base: str, compression: int) -> None:
    for key in ("name", "path", "format", "environment"):
        try:
            group.attrs[key] = getattr(demo, key)
        except ValueError as e:  # a NUL or half a character
            raise DemoError(f"{base}': HDF5 cannot store its {key} as text ({e})") from e
    if demo.control_hz is not None:
        group.attrs["control_hz"] = float(demo.control_hz)
    group.attrs["attributes"] = json.dumps(dict(demo.attributes), sort_keys=True)
    for key, array, as_read in _seed_arrays(demo):
        where = f"{base}/{key}' (demo {demo.name!r})"
        if any(not part or part == "." for part in key.split("/")) or key.count("/") > 1:
            raise DemoError(f"{where} is not a usable name; names are not empty, not '.' and hold no '/'")
        checked = as_read(array, len(demo.actions), where)
        with np.errstate(over="ignore"):
            single = checked.astype("<f4") if checked.dtype == np.float64 else checked
        # Half the size where nothing is lost: recorded actions are float32 numbers, states are not.
        stored = single if np.array_equal(single, checked) else checked.astype("<f8")
        rows = max(1, min(len(stored), (1 << 20) // max(1, stored[:1].nbytes)))
        packed = {"chunks": (rows, *stored.shape[1:]), "compression": "gzip", "compression_opts": compression}
        packed = {**packed, "shuffle": True} if stored.size else {}
        group.create_dataset(key, data=stored, track_times=False, **packed)


def _seed_arrays(demo: Demo) -> Iterator[tuple[str, NDArray[Any], Callable[..., NDArray[Any]]]]:
    """Every array of a demo: its key in the file, its value, and the check that reading will make."""
    yield "actions", demo.actions, _rows
    if demo.states.shape != (0, 0):
        yield "states", demo.states, _state_rows
    for field_name, as_read in (
        ("T_world_eef", _poses),
        ("T_world_eef_target", _poses),
        ("gripper", _rows),
        ("T_world_object", _poses),
        ("signals", _truths),
    ):
        for key, array in getattr(demo, field_name).items():
            yield f"{field_name}/{key}", array, as_read


# ---- what arrays have to look like ----------------------------------------------------------------------------------


def _numbers(array: NDArray[Any], expected: str, where: str, *, fits: bool) -> Array:
    if not fits:
        raise DemoError(f"{where} has shape {array.shape}; expected {expected}")
    numbers = np.asarray(array, np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise DemoError(f"{where} is {numbers[tuple(bad[0])]} at {bad[0].tolist()}; every number must be finite")
    return numbers


def _rows(array: NDArray[Any], rows: int, where: str) -> Array:
    fits = array.ndim == 2 and len(array) == rows >= 1
    return _numbers(array, f"({rows or 'at least 1'}, n), one row per action", where, fits=fits)


def _state_rows(array: NDArray[Any], rows: int, where: str) -> Array:
    fits = array.ndim == 2 and len(array) in (rows, rows + 1) and array.shape[1] > 0
    return _numbers(array, f"({rows}, n) or ({rows + 1}, n), a flat simulator state per action", where, fits=fits)


def _poses(array: NDArray[Any], rows: int, where: str) -> Array:
    T = _numbers(array, f"({rows}, 4, 4), one pose per action", where, fits=array.shape == (rows, 4, 4))
    R = T[:, :3, :3]
    off = np.abs(np.swapaxes(R, 1, 2) @ R - np.eye(3)).max(axis=(1, 2))
    off = np.maximum(off, np.abs(T[:, 3] - (0, 0, 0, 1)).max(axis=1))
    off = np.where(np.linalg.det(R) > 0, off, np.inf)
    if off.max() > _POSE_TOLERANCE:
        raise DemoError(f"{where} is not a rigid pose at row {int(np.argmax(off > _POSE_TOLERANCE))}")
    return T


def _truths(array: NDArray[Any], rows: int, where: str) -> NDArray[np.bool_]:
    if array.shape not in ((rows,), (rows, 1)):
        raise DemoError(f"{where} has shape {array.shape}; expected ({rows},) or ({rows}, 1), one value per action")
    bad = np.flatnonzero((array != 0) & (array != 1))
    if len(bad):
        raise DemoError(f"{where} is {array.reshape(-1)[bad[0]]} at row {bad[0]}; a signal is 0 or 1")
    return array.reshape(rows).astype(np.bool_)


# ---- parts of a file ------------------------------------------------------------------------------------------------


def _actions(f: CheckedFile, base: str) -> Array:
    key = f"{base}/actions"
    actions = f.array(key)
    where = f"{f.path}: {key!r}"
    if actions.ndim != 2 or 0 in actions.shape:
        raise DemoError(f"{where} has shape {actions.shape}; expected (steps, action width), both at least 1")
    return _numbers(actions, "", where, fits=True)


def _states(f: CheckedFile, base: str, rows: int, *, required: bool) -> Array:
    key = f"{base}/states"
    if not f.has_array(key):
        if not required:
            return np.empty((0, 0))
        raise f.error(
            key, f"is missing, its demo holds {f.children(base)}; flat simulator states or 'datagen_info' are expected"
        )
    return _state_rows(f.array(key), rows, f"{f.path}: {key!r}")


def _all(
    f: CheckedFile, key: str, rows: int, check: Callable[[NDArray[Any], int, str], Any], *, required: bool = False
) -> dict[str, Any]:
    """Return a group's arrays by name; a lone array in the group's place belongs to the only arm, "right"."""
    keys = {"right": key} if f.has_array(key) else {name: f"{key}/{name}" for name in sorted(f.children(key))}
    if required and not keys:
        raise f.error(key, f"is missing or empty, its group holds {f.children(key.rpartition('/')[0])}")
    return {name: check(f.array(at), rows, f"{f.path}: {at!r}") for name, at in keys.items()}


def _json(f: CheckedFile, attribute: str, base: str = "data") -> dict[str, Any]:
    text = f.attribute(base, attribute)
    if text is None:
        return {}
    try:
        value = json.loads(str(text))
    except (ValueError, RecursionError) as e:
        raise f.error(base, f"has an attribute {attribute!r} that is not JSON ({e})") from e
    if not isinstance(value, dict):
        raise f.error(
            base, f"has an attribute {attribute!r} that is a JSON {type(value).__name__}; an object is expected"
        )
    return value


def _env_args(f: CheckedFile) -> dict[str, Any]:
    return _json(f, "env_args")


def _isaaclab_states(f: CheckedFile, base: str, actions: Array, rate: float | None) -> Array:
    """Return ``(T + 1, n)`` flat states: time, the action that led there, the scene's arrays by name, w first."""
    names = [name for name in _arrays_below(f, f"{base}/states") if f.has_array(f"{base}/initial_state/{name}")]
    if not names:
        return np.empty((0, 0))
    order, rows = order_of_file(f.attribute("/", "format_version")), len(actions)
    parts = [np.arange(rows + 1.0)[:, None] / (rate or 1.0), np.vstack([np.zeros(actions.shape[1]), actions])]
    for name in names:
        key = f"{base}/states/{name}"
        first, later = f.array(f"{base}/initial_state/{name}"), f.array(key)
        if first.shape != (1, *later.shape[1:]):
            raise f.error(f"{base}/initial_state/{name}", f"has shape {first.shape} where the steps have {later.shape}")
        path = np.concatenate([first, later])
        flat = reordered(name, path, order, "wxyz").reshape(len(path), -1)
        parts.append(_state_rows(flat, rows, f"{f.path}: {key!r}, after its initial state,"))
    return np.concatenate(parts, axis=1)


def _arrays_below(f: CheckedFile, key: str) -> list[str]:
    """Return the paths of all arrays in a group and the groups in it, sorted."""
    found: list[str] = []
    for name in sorted(f.children(key)):
        found += [name] if f.has_array(f"{key}/{name}") else [f"{name}/{r}" for r in _arrays_below(f, f"{key}/{name}")]
    return sorted(found)


def _isaaclab_rate(args: dict[str, Any]) -> float | None:
    """Control rate from the physics step and its decimation."""
    sim = args.get("sim_args")
    dt, decimation = (sim.get("dt"), sim.get("decimation")) if isinstance(sim, dict) else (None, None)
    dt, decimation = _rate(dt), _rate(decimation)
    return None if dt is None or decimation is None else 1.0 / (dt * decimation)


def _rate(value: object) -> float | None:
    """Return a positive finite number, or None where a file says something else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
        return None
    return float(value)


def _facts(f: CheckedFile, base: str, *names: str) -> dict[str, str]:
    """Return the named attributes of the demo, or of the whole file, as text."""
    found = {}
    for name in names:
        value = f.attribute(base, name)
        value = f.attribute("data", name) if value is None else value
        if value is not None:
            found[name] = _text(value)
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _check_widths(f: CheckedFile, demos: Sequence[Demo]) -> None:
    """Demos of one file belong to one environment, so their rows are equally wide."""
    for what in ("actions", "states"):
        first = getattr(demos[0], what).shape[1]
        for demo in demos:
            width = getattr(demo, what).shape[1]
            if width != first:
                raise f.error(
                    f"data/{demo.name}/{what}", f"has rows of {width} numbers where {demos[0].name!r} has {first}"
                )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits as numbers, however long they are."""
    parts = [(part.lstrip("0"), part) for part in re.split(r"(\d+)", name)]
    return [(len(digits), digits) if part.isdecimal() else (-1, part) for digits, part in parts]
