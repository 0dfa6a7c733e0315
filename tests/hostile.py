"""Files that nobody should open without care: written by hand, or a good file with a few bytes changed.

Whatever points outside points at a canary: a text file and an HDF5 file of good demonstrations, both holding a secret
that must turn up nowhere.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from factory.demos import Demo, read_demos, write_demos

SECRET = "canary-6b1f0c7e-do-not-sing"  # noqa: S105  # of nobody
NUMBER = 31415.926535
"""The secret of the canary's arrays."""

ACTIONS, STATES, DEMO = "data/demo_1/actions", "data/demo_1/states", "data/demo_1"

Make = Callable[[h5py.File, "Canary"], None]


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Two files that lie outside of every upload."""

    text: Path
    hdf5: Path


def place_canary(folder: Path) -> Canary:
    """Write the files that nobody may read."""
    folder.mkdir(parents=True, exist_ok=True)
    canary = Canary(text=folder / "secret.txt", hdf5=folder / "secret.hdf5")
    canary.text.write_text((SECRET + "\n") * 64)
    rows = np.full((12, 7), NUMBER)
    demo = Demo(name=SECRET, path="", format="seeds", environment=SECRET, actions=rows, states=rows)
    write_demos(canary.hdf5, [demo])
    with h5py.File(canary.hdf5, "a") as f:
        f["data/demo_1"], f["x"] = f["data/demo_0"], rows
        f["data"].attrs["env"] = SECRET
        f["data"].attrs["env_info"] = json.dumps({"env_name": SECRET, "control_freq": 20})
    return canary


def leaks(said: object, canonical: Path) -> bool:
    """Tell whether the secret is in a verdict or anywhere in a canonical file."""
    if SECRET in repr(said) or str(NUMBER) in repr(said):
        return True
    if not canonical.exists():
        return False
    return SECRET.encode() in canonical.read_bytes() or any(map(_sings, read_demos(canonical)))


def _sings(demo: Demo) -> bool:
    groups = (demo.T_world_eef, demo.T_world_eef_target, demo.gripper, demo.T_world_object, demo.signals)
    arrays = [demo.actions, demo.states, *(array for group in groups for array in group.values())]
    texts = repr((demo.name, demo.path, demo.format, demo.environment, demo.attributes))
    with np.errstate(invalid="ignore", over="ignore"):
        found = [np.ravel(a).astype(np.int64).astype(np.uint8).tobytes() + np.ravel(a).tobytes() for a in arrays]
        numbers = any(np.isclose(a, NUMBER).any() for a in arrays if a.dtype.kind == "f")
    return SECRET in texts or numbers or any(SECRET.encode() in bytes_ for bytes_ in found)


# ---- mutations ------------------------------------------------------------------------------------------------------

_SIGNATURES = (b"\x89HDF", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"FRHP", b"BTHD", b"demo_", b"actions")
_ODD = (0, 1, 7, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def mutated(good: bytes, index: int) -> bytes:
    """Return a copy with a few bytes changed, most of them in the file's structure; the same for the same index."""
    rng = np.random.default_rng([6, index])
    data = bytearray(good)
    kind = index % 8
    if kind == 0:
        return bytes(data[: rng.integers(8, len(data))])
    if kind == 1:
        start, other, n = *rng.integers(8, len(data) - 600, 2), int(rng.integers(1, 512))
        data[start : start + n] = data[other : other + n]
    elif kind == 2:
        start = int(rng.integers(8, len(data) - 600))
        if rng.random() < 0.5:
            del data[start : start + int(rng.integers(1, 512))]
        else:
            data[start:start] = rng.bytes(int(rng.integers(1, 512)))
    elif kind == 3:
        for at in rng.integers(8, len(data), rng.integers(1, 64)):
            data[at] = rng.integers(256)
    else:
        places = _structure(good)
        for _ in range(rng.integers(1, 12)):
            at = int(places[rng.integers(len(places))] + rng.integers(0, 256))
            width = int(rng.choice((1, 2, 4, 8)))
            if at < 8 or at + width > len(data):
                continue
            odd = _ODD[rng.integers(len(_ODD))] if rng.random() < 0.7 else int(rng.integers(1 << 62))
            data[at : at + width] = (odd & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(data)


def _structure(good: bytes) -> list[int]:
    """Return where the file's own bookkeeping begins."""
    found = [0]
    for signature in _SIGNATURES:
        at = good.find(signature)
        while at >= 0:
            found.append(at)
            at = good.find(signature, at + 1)
    return found


# ---- crafted files --------------------------------------------------------------------------------------------------


def plain(f: h5py.File, steps: tuple[int, ...] = (12, 9)) -> None:
    """A small good file in robosuite's layout."""
    rng = np.random.default_rng(0)
    data = f.create_group("data")
    data.attrs.update(env="Lift", env_info=json.dumps({"env_name": "Lift", "control_freq": 20}))
    for i, n in enumerate(steps):
        demo = data.create_group(f"demo_{i + 1}")
        demo.attrs["model_file"] = "<mujoco/>"
        demo["actions"], demo["states"] = rng.uniform(-1, 1, (n, 7)), rng.normal(size=(n, 32))


def craft(name: str, path: Path, canary: Canary) -> None:
    """Write one of `CRAFTED`."""
    make, _ = CRAFTED[name]
    if name in _RAW:
        path.write_bytes(make(canary))
        return
    with h5py.File(path, "w") as f:
        plain(f)
        make(f, canary)


def _put(key: str, **dataset: Any) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        if key in f:
            del f[key]
        f.create_dataset(key, **dataset)

    return make


def _link(key: str, link: Callable[[Canary], Any]) -> Make:
    def make(f: h5py.File, canary: Canary) -> None:
        if key in f:
            del f[key]
        f[key] = link(canary)

    return make


def _attribute(key: str, name: str, value: Any, **more: Any) -> Make:
    def make(f: h5py.File, canary: Canary) -> None:
        text = value.replace("CANARY", str(canary.text)) if isinstance(value, str) else value
        f[key].attrs.create(name, text, **more)

    return make


def _outside(key: str, *, relative: bool = False) -> Make:
    def make(f: h5py.File, canary: Canary) -> None:
        if key in f:
            del f[key]
        path = f"../{canary.text.parent.name}/{canary.text.name}" if relative else str(canary.text)
        f.create_dataset(key, (12, 7), "u1", external=[(path, 0, h5py.h5f.UNLIMITED)])

    return make


def _virtual(key: str, source: Callable[[Canary], str]) -> Make:
    def make(f: h5py.File, canary: Canary) -> None:
        if key in f:
            del f[key]
        layout = h5py.VirtualLayout(shape=(12, 7), dtype="f8")
        layout[:] = h5py.VirtualSource(source(canary), "x", shape=(12, 7))
        f.create_virtual_dataset(key, layout)

    return make


def _reference(where: str, kind: str) -> Make:
    """An attribute or dataset that refers to a dataset whose bytes are outside."""

    def make(f: h5py.File, canary: Canary) -> None:
        _outside("data/far")(f, canary)
        if kind == "region":
            f[where].attrs.create("r", f["data/far"].regionref[0:2], dtype=h5py.regionref_dtype)
        elif kind == "object":
            f[where].attrs.create("r", f["data/far"].ref, dtype=h5py.ref_dtype)
        else:
            f.create_dataset(f"{where}/r", data=np.array([f["data/far"].ref], object), dtype=h5py.ref_dtype)

    return make


def _bomb(key: str, *, mib: int, dtype: str) -> Make:
    """`mib` MiB of zeros in 1 MiB chunks, each about a kilobyte."""

    def make(f: h5py.File, _: Canary) -> None:
        if key in f:
            del f[key]
        width = (1 << 20) // np.dtype(dtype).itemsize
        d = f.create_dataset(key, (mib, width), dtype, chunks=(1, width), compression="gzip", compression_opts=9)
        packed = zlib.compress(bytes(1 << 20), 9)
        for i in range(mib):
            d.id.write_direct_chunk((i, 0), packed)

    return make


def _bomb_of_a_demo(*, mib: int) -> Make:
    """A bomb in a demonstration that is otherwise good."""

    def make(f: h5py.File, canary: Canary) -> None:
        for name in list(f["data"]):
            del f["data"][name]
        _bomb(ACTIONS, mib=mib, dtype="f8")(f, canary)
        f[STATES] = np.zeros((mib, 5))

    return make


def _filter(code: int) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 7))
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
        space = h5py.h5s.create_simple((12, 7))
        h5py.h5d.create(f[DEMO].id, b"extra", h5py.h5t.IEEE_F64LE, space, plist)

    return make


def _named(*names: bytes) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        for name in names:
            data = f["data"]
            f.copy(f[DEMO], data, name="spare")
            data.id.links.move(b"spare", data.id, name)

    return make


def _patched(old: bytes, new: bytes, *, first: int = 0, count: int = -1) -> Callable[[Canary], bytes]:
    """The good file with bytes replaced, wherever they stand."""

    def make(_: Canary) -> bytes:
        good = good_bytes()
        assert old in good[first:], old
        return good[:first] + good[first:].replace(old, new, count)

    return make


def good_bytes() -> bytes:
    """The small good file as bytes."""
    with h5py.File("good", "w", driver="core", backing_store=False) as f:
        plain(f)
        f.flush()
        return f.id.get_file_image()


def _crowd(n: int) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        group = f.create_group("crowd")
        for i in range(n):
            h5py.h5g.create(group.id, b"%d" % i)

    return make


def _attributes(n: int) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        for i in range(n):
            f[DEMO].attrs[f"a{i}"] = i

    return make


def _mutual(f: h5py.File, _: Canary) -> None:
    a, b = f.create_group("a"), f.create_group("b")
    a["b"], b["a"] = b, a


def _isaac(f: h5py.File, _: Canary) -> None:
    f["data"].attrs["env_args"] = json.dumps({"env_name": "x", "type": 2})
    f[f"{DEMO}/obs/datagen_info/eef_pose/arm"] = np.full((12, 4, 4), 2.0)


def _datagen(key: str, value: Any) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        f["data"].attrs["env_args"] = json.dumps({"env_name": "x", "type": 1})
        f[f"{DEMO}/datagen_info/{key}"] = value

    return make


def _seeds(**attributes: Any) -> Make:
    def make(f: h5py.File, _: Canary) -> None:
        f.attrs.update({"format": "trajectory-factory-demos", "version": 1, **attributes})

    return make


def _checksum(f: h5py.File, _: Canary) -> None:
    del f[ACTIONS]
    d = f.create_dataset(ACTIONS, (12, 7), "f8", chunks=(12, 7), fletcher32=True)
    d.id.write_direct_chunk((0, 0), bytes(12 * 7 * 8 + 4))
    d.id.write_direct_chunk((0, 0), b"\1" * (12 * 7 * 8 + 4))


def _liar(f: h5py.File, _: Canary) -> None:
    """A chunk that unpacks to more than its declared size."""
    del f[ACTIONS]
    d = f.create_dataset(ACTIONS, (12, 7), "f8", chunks=(12, 7), compression="gzip")
    d.id.write_direct_chunk((0, 0), zlib.compress(bytes(64 << 20)))


def _zip(members: Mapping[str, bytes]) -> Callable[[Canary], bytes]:
    def make(_: Canary) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            for name, content in members.items():
                z.writestr(name, content)
        return out.getvalue()

    return make


def _npz(_: Canary) -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.array([{"a": 1}], object))
    return out.getvalue()


_RAW = frozenset(
    """empty|magic alone|magic, then noise|noise|a user block first|truncated in the superblock|truncated by a byte
    truncated in half|rows of -1|rows of 2^63|rows of 2^40|superblock: root nowhere|superblock: end of file negative
    superblock: version 9|name with a slash|name that is a dot|empty name|link names itself
    zip with slip names|torch zip|npz|npy|pickle|gzip|MJCF with include|XML entity bomb|parquet""".replace("\n", "|")
    .replace("    ", "")
    .split("|")
)
_NO = frozenset({"refused", "unreadable"})
_HEAVY = frozenset({"refused", "too_slow", "too_large", "unreadable"})
_FINE = frozenset({"ok"})
_ANY = frozenset({"ok", *_HEAVY})
_MODEL = "<mujoco><include file='CANARY'/><asset><mesh file='CANARY'/><hfield file='CANARY'/></asset></mujoco>"
_LAUGHS = "<!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'><!ENTITY c SYSTEM 'file://CANARY'>]><l>&b;&c;</l>"

CRAFTED: Mapping[str, tuple[Callable[..., Any], frozenset[str]]] = {
    # out of the file
    "external link: root": (_link("x", lambda c: h5py.ExternalLink(c.hdf5, "/x")), _NO),
    "external link: actions": (_link(ACTIONS, lambda c: h5py.ExternalLink(c.hdf5, "/x")), _NO),
    "external link: a demo": (_link(DEMO, lambda c: h5py.ExternalLink(c.hdf5, "/data/demo_0")), _NO),
    "external link: data": (_link("data", lambda c: h5py.ExternalLink(c.hdf5, "/data")), _NO),
    "external link: relative": (_link(ACTIONS, lambda c: h5py.ExternalLink("../canary/secret.hdf5", "/x")), _NO),
    "external link: itself": (_link("data/demo_3", lambda c: h5py.ExternalLink(".", "/data/demo_1")), _NO),
    "external link: device": (_link(ACTIONS, lambda c: h5py.ExternalLink("/dev/zero", "/x")), _NO),
    "soft link: root": (_link("x", lambda c: h5py.SoftLink("/data")), _NO),
    "soft link: actions": (_link(ACTIONS, lambda c: h5py.SoftLink("/data/demo_2/actions")), _NO),
    "soft link: loop": (_link("data/x", lambda c: h5py.SoftLink("/data/x")), _NO),
    "soft link: data": (_link("data", lambda c: h5py.SoftLink("/elsewhere")), _NO),
    "external storage: root": (_outside("x"), _NO),
    "external storage: actions": (_outside(ACTIONS), _NO),
    "external storage: states": (_outside(STATES), _NO),
    "external storage: relative": (_outside(ACTIONS, relative=True), _NO),
    "virtual: root": (_virtual("x", lambda c: str(c.hdf5)), _NO),
    "virtual: actions": (_virtual(ACTIONS, lambda c: str(c.hdf5)), _NO),
    "virtual: itself": (_virtual(ACTIONS, lambda c: "."), _NO),
    "reference: attribute": (_reference(DEMO, "object"), _NO),
    "reference: region": (_reference("data", "region"), _NO),
    "reference: dataset": (_reference(DEMO, "dataset"), _NO),
    # round and round, deep, many
    "soft link: to the root": (_link("data/demo_1/loop", lambda c: h5py.SoftLink("/")), _NO),
    "hard link: cycle": (lambda f, c: f["data/demo_1"].__setitem__("loop", f["/"]), _NO),
    "hard link: mutual": (_mutual, _NO),
    "hard link: a dataset twice": (lambda f, c: f[DEMO].__setitem__("again", f[STATES]), _NO),
    "deep": (lambda f, c: f.create_group("data/demo_1/" + "/".join("d" * 3000)), _NO),
    "crowd of groups": (_crowd(20_000), _ANY),
    "crowd of attributes": (_attributes(300), _NO),
    "great crowd of attributes": (_attributes(5000), _NO),
    # larger than it looks
    "gzip bomb: actions": (_bomb(ACTIONS, mib=2000, dtype="f8"), _HEAVY),
    "gzip bomb: bytes within the budget": (_bomb(ACTIONS, mib=250, dtype="u1"), _HEAVY),
    "gzip bomb: numbers within the budget": (_bomb_of_a_demo(mib=200), _ANY),
    "gzip bomb: never read": (_bomb("data/demo_1/obs/image", mib=1000, dtype="u1"), _ANY),
    "gzip: a chunk that lies": (_liar, _ANY),
    "huge shape": (_put(ACTIONS, shape=(2**40, 2**10), dtype="f8", chunks=(1, 1024)), _NO),
    "huge shape: contiguous": (_put(ACTIONS, shape=(2**30, 2**20), dtype="f8"), _NO),
    "huge shape: one row": (_put(ACTIONS, shape=(12, 2**31), dtype="u1", chunks=(1, 4096)), _NO),
    "huge chunks": (_put(ACTIONS, shape=(12, 7), maxshape=(None, None), dtype="f8", chunks=(2**14, 2**14)), _NO),
    "many dimensions": (_put("x", shape=(2,) * 32, dtype="f8", chunks=(1,) * 32), _NO),
    "huge attribute": (_attribute("data", "a", np.zeros(8000)), _FINE),
    "attribute: a crowd of texts": (_attribute("data", "env", ["Lift" * 9] * 3000, dtype=h5py.string_dtype()), _NO),
    "attribute: 8 MiB of text": (_attribute("data", "env", "x" * (8 << 20)), _ANY),
    "attribute: null": (lambda f, c: f["data"].attrs.__setitem__("env", h5py.Empty("f")), _ANY),
    # types
    "type: variable-length": (_put("data/demo_1/x", shape=(2,), dtype=h5py.vlen_dtype(np.uint8)), _NO),
    "type: opaque": (lambda f, c: f.__setitem__("data/x", np.array([b"cos\nsystem\n"], "V11")), _NO),
    "type: compound": (lambda f, c: f.__setitem__(f"{DEMO}/x", np.zeros(3, [("a", "f8"), ("b", "i4")])), _NO),
    "type: nested compound": (lambda f, c: f.__setitem__("x", np.zeros(3, [("a", [("b", "f8", (3,))])])), _NO),
    "type: complex": (_put(ACTIONS, data=np.zeros((12, 7), complex)), _NO),
    "type: array": (_put("x", shape=(3,), dtype=np.dtype((np.float64, (1000,)))), _ANY),
    "type: objects": (_put(ACTIONS, data=np.array([["a"] * 7] * 12, object), dtype=h5py.string_dtype()), _NO),
    "type: text": (_put(ACTIONS, data=np.full((12, 7), b"1")), _NO),
    "type: long double": (_put("x", data=np.zeros(3, np.longdouble)), _NO),
    "type: named": (lambda f, c: f.__setitem__("x", np.dtype("f8")), _NO),
    "type: attribute of compounds": (_attribute("data", "x", np.zeros(3, [("a", "f8")])), _NO),
    "type: environment is a list": (_attribute("data", "env", [1, 2, 3]), _NO),
    # filters
    "filter: blosc": (_filter(32001), _NO),
    "filter: unknown": (_filter(777), _NO),
    "filter: scale-offset": (_put("x", data=np.arange(100), scaleoffset=True), _NO),
    "filter: wrong checksum": (_checksum, _NO),
    # names
    "name: not UTF-8": (_named(b"\xff\xfe"), _NO),
    "name: slips out": (lambda f, c: f.create_group("data/../../../etc/cron.d"), _NO),
    "name: two dots": (_named(b".."), _ANY),
    "name: backslashes": (_named(b"..\\..\\boot.ini"), _ANY),
    "name: new line": (_named(b"demo_\n1\r\x1b[31m"), _ANY),
    "name: right to left": (_named("demo_\u202e1".encode()), _ANY),
    "name: 60000 letters": (_named(b"n" * 60_000), _ANY),
    "name: 5000 digits": (_named(b"demo_" + b"9" * 5000), _ANY),
    "name: a device": (_named(b"con", b"nul"), _ANY),
    # what attributes say
    "model: includes": (_attribute(DEMO, "model_file", _MODEL), _FINE),
    "model: entity bomb": (_attribute(DEMO, "model_file", _LAUGHS), _FINE),
    "model: nested 20000": (_attribute(DEMO, "model_file", "<body>" * 20_000), _FINE),
    "model: a number": (_attribute(DEMO, "model_file", 7), _FINE),
    "JSON: nested": (_attribute("data", "env_args", "[" * 50_000), _NO),
    "JSON: endless number": (_attribute("data", "env_info", '{"control_freq": ' + "9" * 4000 + "}"), _ANY),
    "JSON: longer number": (_attribute("data", "env_info", '{"control_freq": ' + "9" * 40_000 + "}"), _NO),
    "JSON: not a number": (_attribute("data", "env_info", '{"control_freq": NaN}'), _ANY),
    "JSON: negative rate": (_attribute("data", "env_info", '{"control_freq": -20}'), _ANY),
    "JSON: NUL and half a character": (_attribute("data", "env_args", r'{"env_name": "a\u0000\ud800"}'), _NO),
    "JSON: a list": (_attribute("data", "env_args", "[1]"), _NO),
    "text: NUL inside": (_attribute("data", "env", np.bytes_(b"Li\0ft"), dtype="S5"), _NO),
    "text: not UTF-8": (_attribute("data", "env", np.bytes_(b"\xff\xfe\xfd"), dtype="S3"), _ANY),
    # demonstrations that make no sense
    "demo: none": (lambda f, c: [f["data"].pop(k) for k in list(f["data"])], _NO),
    "demo: no data": (lambda f, c: f.pop("data"), _NO),
    "demo: data is an array": (_put("data", data=np.zeros(3)), _NO),
    "demo: actions are a group": (lambda f, c: (f.pop(ACTIONS), f.create_group(ACTIONS)), _NO),
    "demo: NaN": (_put(ACTIONS, data=np.full((12, 7), np.nan)), _NO),
    "demo: infinite": (_put(STATES, data=np.full((12, 32), np.inf)), _NO),
    "demo: no steps": (_put(ACTIONS, data=np.zeros((0, 7))), _NO),
    "demo: no columns": (_put(ACTIONS, data=np.zeros((12, 0))), _NO),
    "demo: one dimension": (_put(ACTIONS, data=np.zeros(12)), _NO),
    "demo: lengths disagree": (_put(ACTIONS, data=np.zeros((5, 7))), _NO),
    "demo: widths disagree": (_put(ACTIONS, data=np.zeros((12, 8))), _NO),
    "demo: no states": (lambda f, c: f.pop(STATES), _NO),
    "demo: poses not rigid": (_isaac, _NO),
    "demo: poses of another shape": (_datagen("eef_pose", np.zeros((12, 3, 3))), _NO),
    "demo: a signal of 2": (_datagen("subtask_term_signals/grasp", np.full(12, 2)), _NO),
    "seeds: another version": (_seeds(version=99), _NO),
    "seeds: version is text": (_seeds(version="1"), _NO),
    "seeds: nothing else": (_seeds(), _ANY),
    # bytes
    "empty": (lambda c: b"", _NO),
    "magic alone": (lambda c: b"\x89HDF\r\n\x1a\n", _NO),
    "magic, then noise": (lambda c: b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(5000), _NO),
    "noise": (lambda c: np.random.default_rng(1).bytes(5000), _NO),
    "a user block first": (lambda c: bytes(512) + good_bytes(), _NO),
    "truncated in the superblock": (lambda c: good_bytes()[:40], _NO),
    "truncated by a byte": (lambda c: good_bytes()[:-1], _ANY),
    "truncated in half": (lambda c: good_bytes()[:3000], _NO),
    "rows of -1": (
        _patched(_dims := (12).to_bytes(8, "little") + (7).to_bytes(8, "little"), b"\xff" * 8 + _dims[8:]),
        _NO,
    ),
    "rows of 2^63": (_patched(_dims, (1 << 63).to_bytes(8, "little") + _dims[8:]), _NO),
    "rows of 2^40": (_patched(_dims, (1 << 40).to_bytes(8, "little") + _dims[8:]), _NO),
    "superblock: root nowhere": (lambda c: good_bytes()[:64] + b"\xee" * 8 + good_bytes()[72:], _NO),
    "superblock: end of file negative": (lambda c: good_bytes()[:40] + b"\xff" * 8 + good_bytes()[48:], _ANY),
    "superblock: version 9": (lambda c: good_bytes()[:8] + b"\x09" + good_bytes()[9:], _NO),
    "name with a slash": (_patched(b"demo_2", b"de/o_2"), _NO),
    "name that is a dot": (_patched(b"demo_2", b".\0\0\0\0\0"), _NO),
    "empty name": (_patched(b"demo_2", b"\0emo_2"), _NO),
    "link names itself": (_patched(b"demo_2", b"demo_1"), _ANY),
    "zip with slip names": (_zip({"../../etc/cron.d/x": b"* * * * *", "/etc/passwd": b"x"}), _NO),
    "torch zip": (_zip({"archive/data.pkl": pickle.dumps(print), "archive/version": b"3"}), _NO),
    "npz": (_npz, _NO),
    "npy": (lambda c: b"\x93NUMPY\1\0v\0" + bytes(200), _NO),
    "pickle": (lambda c: pickle.dumps(print), _NO),
    "gzip": (lambda c: b"\x1f\x8b\x08\0" + bytes(99), _NO),
    "MJCF with include": (lambda c: _MODEL.replace("CANARY", str(c.text)).encode(), _NO),
    "XML entity bomb": (lambda c: _LAUGHS.replace("CANARY", str(c.text)).encode(), _NO),
    "parquet": (lambda c: b"PAR1" + bytes(99), _NO),
}
"""Name -> how it is written, and the verdicts that are right."""
