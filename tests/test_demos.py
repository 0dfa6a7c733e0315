"""Reading demonstrations: what is stored comes back, and every bad file gets one clear sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from factory import poses
from factory.demos import Demo, read_demos, write_demos
from factory.errors import DemoError
from factory.hdf5 import Limits, open_checked

Write = Callable[[h5py.File], None]


def random_poses(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return poses.pose(poses.matrix_from_axis_angle(rng.normal(size=(n, 3))), rng.normal(size=(n, 3)))


def write_robosuite(f: h5py.File, steps: tuple[int, ...] = (12, 9)) -> None:
    rng = np.random.default_rng(0)
    data = f.create_group("data")
    data.attrs.update(env="Lift", env_info=json.dumps({"env_name": "Lift", "control_freq": 20}), date="1-2-2024")
    for i, n in enumerate(steps):
        demo = data.create_group(f"demo_{i + 1}")
        demo.attrs["model_file"] = "<mujoco><include file='/etc/passwd'/></mujoco>"
        demo["actions"], demo["states"] = rng.uniform(-1, 1, (n, 7)), rng.normal(size=(n, 32))


def write_mimicgen(f: h5py.File, n: int = 12) -> None:
    rng = np.random.default_rng(1)
    data = f.create_group("data")
    data.attrs["env_args"] = json.dumps({"env_name": "Stack_D0", "type": 1, "env_kwargs": {"control_freq": 20}})
    demo = data.create_group("demo_0")
    demo["actions"], demo["states"] = rng.uniform(-1, 1, (n, 7)), rng.normal(size=(n, 45))
    demo["obs/agentview_image"] = np.zeros((n, 8, 8, 3), np.uint8)
    demo["datagen_info/eef_pose"] = random_poses(rng, n)
    demo["datagen_info/target_pose"] = random_poses(rng, n)
    demo["datagen_info/object_poses/cubeA"] = random_poses(rng, n)
    demo["datagen_info/gripper_action"] = rng.uniform(-1, 1, (n, 1))
    demo["datagen_info/subtask_term_signals/grasp"] = (np.arange(n) > 5).astype(np.int64)


def write_isaaclab(f: h5py.File, n: int = 12) -> None:
    rng = np.random.default_rng(2)
    data = f.create_group("data")
    sim = {"dt": 0.005, "decimation": 10}
    data.attrs.update(total=n, env_args=json.dumps({"env_name": "Isaac-Stack", "type": 2, "sim_args": sim}))
    demo = data.create_group("demo_0")
    demo.attrs.update(num_samples=n, seed=3, success=True)
    demo["actions"] = rng.uniform(-1, 1, (n, 7)).astype(np.float32)
    demo["states/rigid_object/cube_1/root_pose"] = rng.normal(size=(n, 7)).astype(np.float32)
    demo["initial_state/rigid_object/cube_1/root_pose"] = rng.normal(size=(1, 7)).astype(np.float32)
    info = demo.create_group("obs/datagen_info")
    info["eef_pose/franka"] = random_poses(rng, n).astype(np.float32)
    info["target_eef_pose/franka"] = random_poses(rng, n).astype(np.float32)
    info["object_pose/cube_1"] = random_poses(rng, n).astype(np.float32)
    info["subtask_term_signals/grasp_1"] = (np.arange(n) > 4)[:, None]
    info["subtask_term_signals/stack_1"] = np.arange(n) > 8


def hdf5(folder: Path, *writers: Write) -> Path:
    path = folder / "demos.hdf5"
    with h5py.File(path, "w") as f:
        for write in writers:
            write(f)
    return path


def assert_same(a: Demo, b: Demo) -> None:
    """Every field equal, arrays in shape, type and bits."""

    def flat(demo: Demo) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in dataclasses.fields(Demo):
            value = getattr(demo, field.name)
            if isinstance(value, Mapping):
                found |= {f"{field.name}/{k}": v for k, v in value.items()}
            else:
                found[field.name] = value
        return {k: (v.shape, v.dtype, v.tobytes()) if isinstance(v, np.ndarray) else v for k, v in found.items()}

    assert flat(a) == flat(b)


# ---- what is stored comes back --------------------------------------------------------------------------------------


def test_robosuite_collection(tmp_path: Path) -> None:
    path = hdf5(tmp_path, lambda f: write_robosuite(f, (12,) * 11))
    demos = read_demos(path)
    assert [d.name for d in demos] == [f"demo_{i}" for i in range(1, 12)], "demo_2 comes before demo_10"
    assert {(d.format, d.environment, d.control_hz, d.path) for d in demos} == {("robosuite", "Lift", 20.0, str(path))}
    assert demos[0].actions.shape == (12, 7)
    assert demos[0].states.shape == (12, 32)
    assert demos[0].attributes["date"] == "1-2-2024"
    assert "model_file" not in demos[0].attributes


def test_mimicgen_source(tmp_path: Path) -> None:
    (demo,) = read_demos(hdf5(tmp_path, write_mimicgen))
    assert (demo.format, demo.environment, demo.control_hz) == ("robomimic", "Stack_D0", 20.0)
    assert {k: v.shape for k, v in demo.T_world_eef.items()} == {"right": (12, 4, 4)}
    assert set(demo.T_world_eef_target) == set(demo.gripper) == {"right"}
    assert set(demo.T_world_object) == {"cubeA"}
    assert demo.signals["grasp"].dtype == bool
    assert np.flatnonzero(demo.signals["grasp"])[0] == 6


def test_robomimic_without_datagen_info(tmp_path: Path) -> None:
    def strip(f: h5py.File) -> None:
        del f["data/demo_0/datagen_info"]

    (demo,) = read_demos(hdf5(tmp_path, write_mimicgen, strip))
    assert demo.states.shape == (12, 45)
    assert not demo.T_world_eef
    assert not demo.signals


def test_isaac_lab_annotated(tmp_path: Path) -> None:
    (demo,) = read_demos(hdf5(tmp_path, write_isaaclab))
    assert (demo.format, demo.environment) == ("isaaclab", "Isaac-Stack")
    assert demo.control_hz == pytest.approx(20.0)
    assert set(demo.T_world_eef) == set(demo.T_world_eef_target) == {"franka"}
    assert {k: v.shape for k, v in demo.signals.items()} == {"grasp_1": (12,), "stack_1": (12,)}
    assert demo.states.shape == (13, 1 + 7 + 7), "time, the action that led there, and the cube's pose"
    assert (demo.attributes["success"], demo.attributes["seed"]) == ("true", "3")
    assert demo.actions.dtype == np.float64


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.floats(allow_nan=False, width=32, allow_infinity=False),
)
words = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda w: w != "."
)


@st.composite
def demos(draw: st.DrawFn) -> Demo:
    n, width = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def table(rows: int) -> NDArray[np.float64]:
        return np.array(draw(st.lists(numbers, min_size=rows * width, max_size=rows * width))).reshape(rows, width)

    keys = st.lists(words, unique=True, max_size=2)
    return Demo(
        name=draw(words),
        path=draw(st.one_of(st.just(""), words)),
        format=draw(st.sampled_from(["seeds", "robosuite", "isaaclab"])),
        environment=draw(words),
        control_hz=draw(st.one_of(st.none(), st.floats(1e-3, 1e4))),
        actions=table(n),
        states=table(n + draw(st.integers(0, 1))) if draw(st.booleans()) else np.empty((0, 0)),
        T_world_eef={k: random_poses(rng, n) for k in draw(keys)},
        T_world_eef_target={k: random_poses(rng, n).astype(np.float32).astype(float) for k in draw(keys)},
        gripper={k: table(n) for k in draw(keys)},
        T_world_object={k: random_poses(rng, n) for k in draw(keys)},
        signals={k: rng.random(n) > 0.5 for k in draw(keys)},
        attributes=draw(st.dictionaries(words, st.text(st.characters(exclude_categories=["Cs"])), max_size=2)),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(demos(), min_size=1, max_size=3))
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, made: list[Demo]) -> None:
    path = tmp_path_factory.mktemp("seeds") / "seeds.hdf5"
    write_demos(path, made)
    for before, after in zip(made, read_demos(path), strict=True):
        assert_same(before, after)


def test_same_demos_same_bytes(tmp_path: Path) -> None:
    source = read_demos(hdf5(tmp_path, write_mimicgen))
    write_demos(tmp_path / "one.hdf5", source)
    time.sleep(1.1)  # HDF5 stores times, in seconds, where it is let
    write_demos(tmp_path / "two.hdf5", source)
    assert (tmp_path / "one.hdf5").read_bytes() == (tmp_path / "two.hdf5").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_recorded_float32_actions_take_half_the_room(tmp_path: Path) -> None:
    path = tmp_path / "seeds.hdf5"
    rng = np.random.default_rng(0)
    demo = Demo(
        name="demo_0",
        path="",
        format="seeds",
        environment="stack",
        actions=rng.uniform(-1, 1, (200, 7)).astype(np.float32).astype(float),
        states=rng.normal(size=(201, 45)),
    )
    write_demos(path, [demo])
    with h5py.File(path) as f:
        assert f["data/demo_0/actions"].dtype == np.float32
        assert f["data/demo_0/states"].dtype == np.float64


def test_files_of_others(outside_demos: Path, tmp_path: Path) -> None:
    files = sorted(outside_demos.rglob("*.hdf5"))
    assert files
    for path in files:
        found = read_demos(path)
        assert found
        assert all(len(d) > 50 and d.states.shape[0] == len(d) for d in found)
        write_demos(tmp_path / "again.hdf5", found)
        for before, after in zip(found, read_demos(tmp_path / "again.hdf5"), strict=True):
            assert_same(before, after)


# ---- what is refused ------------------------------------------------------------------------------------------------


def replace(key: str, value: Any) -> Write:
    def write(f: h5py.File) -> None:
        if key in f:
            del f[key]
        if value is not None:
            f[key] = value

    return write


def spoil(key: str, index: Any, value: float) -> Write:
    def write(f: h5py.File) -> None:
        f[key][index] = value

    return write


def set_attribute(key: str, name: str, value: Any) -> Write:
    def write(f: h5py.File) -> None:
        f[key].attrs[name] = value

    return write


ACTIONS, STATES, INFO = "data/demo_1/actions", "data/demo_1/states", "data/demo_0/datagen_info"


@pytest.mark.parametrize(
    ("base", "change", "key", "said"),
    [
        (write_robosuite, replace(STATES, None), STATES, "is missing"),
        (write_robosuite, replace(ACTIONS, None), ACTIONS, r"missing.*'states'"),
        (write_robosuite, replace(ACTIONS, np.zeros(12)), ACTIONS, r"\(12,\).*action width"),
        (write_robosuite, replace(ACTIONS, np.zeros((12, 2, 3))), ACTIONS, r"\(12, 2, 3\)"),
        (write_robosuite, replace(ACTIONS, np.zeros((0, 7))), ACTIONS, r"\(0, 7\)"),
        (write_robosuite, replace(ACTIONS, np.zeros((12, 6))), "data/demo_2/actions", "7 numbers where 'demo_1' has 6"),
        (write_robosuite, replace(ACTIONS, ["text"] * 12), ACTIONS, "numbers are expected"),
        (write_robosuite, replace(STATES, np.zeros((20, 32))), STATES, r"\(20, 32\).*\(12, n\) or \(13, n\)"),
        (write_robosuite, spoil(ACTIONS, (3, 2), np.nan), ACTIONS, r"nan at \[3, 2\].*finite"),
        (write_robosuite, spoil(STATES, (0, 1), np.inf), STATES, r"inf at \[0, 1\]"),
        (write_robosuite, replace("data/demo_1", None), "", ""),
        (write_robosuite, set_attribute("data", "env_info", "{not json"), "data", "'env_info' that is not JSON"),
        (write_robosuite, set_attribute("data", "env_info", "[1]"), "data", "JSON list"),
        (write_robosuite, set_attribute("data", "env", np.zeros(3)), "data", "'env'.*one text or number"),
        (
            write_mimicgen,
            replace(f"{INFO}/eef_pose", np.zeros((12, 7))),
            f"{INFO}/eef_pose",
            r"\(12, 7\).*\(12, 4, 4\)",
        ),
        (write_mimicgen, spoil(f"{INFO}/eef_pose", (4, 0, 0), 3.0), f"{INFO}/eef_pose", "not a rigid pose at row 4"),
        (
            write_mimicgen,
            replace(f"{INFO}/subtask_term_signals/grasp", np.zeros(11)),
            f"{INFO}/subtask_term_signals/grasp",
            r"\(11,\).*\(12,\)",
        ),
        (
            write_mimicgen,
            spoil(f"{INFO}/subtask_term_signals/grasp", 7, 2),
            f"{INFO}/subtask_term_signals/grasp",
            "is 2 at row 7; a signal is 0 or 1",
        ),
        (
            write_isaaclab,
            replace("data/demo_0/obs/datagen_info", None),
            "data/demo_0/obs/datagen_info",
            "must be annotated first",
        ),
        (
            write_isaaclab,
            replace("data/demo_0/obs/datagen_info/target_eef_pose", None),
            "data/demo_0/obs/datagen_info/target_eef_pose",
            "is missing or empty",
        ),
    ],
)
def test_content_that_does_not_fit(tmp_path: Path, base: Write, change: Write, key: str, said: str) -> None:
    path = hdf5(tmp_path, base, change)
    if not key:
        assert [d.name for d in read_demos(path)] == ["demo_2"]
        return
    with pytest.raises(DemoError, match=said) as e:
        read_demos(path)
    assert str(path) in str(e.value)
    assert repr(key) in str(e.value)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda f: None, "'data' is missing"),
        (lambda f: f.create_group("episodes"), r"holds \['episodes'\].*robomimic.*Isaac Lab"),
        (lambda f: f.create_group("data").attrs.update(env="Lift"), "'data' holds no demonstrations"),
        (lambda f: f.create_group("data/demo_0"), "neither attribute 'env_args' nor 'env'"),
        (lambda f: f.attrs.update(format="trajectory-factory-demos", version=9), "version 9.*knows version 1"),
        (lambda f: f.attrs.update(format="trajectory-factory-demos", version=1), "holds no demonstrations"),
    ],
)
def test_structures_nobody_knows(tmp_path: Path, write: Write, said: str) -> None:
    path = hdf5(tmp_path, write)
    with pytest.raises(DemoError, match=said) as e:
        read_demos(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an HDF5 file"),
        (b"PK\x03\x04 not hdf5", "not an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "truncated or damaged"),
    ],
)
def test_files_that_are_not_hdf5(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "demos.hdf5"
    path.write_bytes(content)
    with pytest.raises(DemoError, match=said) as e:
        read_demos(path)
    assert str(path) in str(e.value)


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no such file"):
        read_demos(tmp_path / "absent.hdf5")
    with pytest.raises(DemoError, match="is a directory"):
        read_demos(tmp_path)
    os.mkfifo(tmp_path / "pipe.hdf5")
    with pytest.raises(DemoError, match="not a regular file"):
        read_demos(tmp_path / "pipe.hdf5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = hdf5(tmp_path, write_robosuite)
    path.chmod(0)
    with pytest.raises(DemoError, match="cannot be read"):
        read_demos(path)


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    write_demos(path, read_demos(hdf5(tmp_path, write_robosuite)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DemoError, match=re.escape(str(path)) + ".*truncated"):
        read_demos(path)
    with h5py.File(hdf5(tmp_path, write_robosuite), "a") as f:
        del f["data/demo_1/states"]
        f.create_dataset("data/demo_1/states", data=np.random.default_rng(0).normal(size=(12, 500)), compression="gzip")
        chunk = f["data/demo_1/states"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset + 20 : chunk.byte_offset + 60] = b"\xff" * 40
    path.write_bytes(damaged)
    with pytest.raises(DemoError, match=r"'data/demo_1/states' of shape .* damaged"):
        read_demos(path)


def link(target: Any) -> Write:
    return replace("data/demo_1/states", target)


def virtual(f: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(12, 32), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "x", shape=(12, 32))
    del f[STATES]
    f.create_virtual_dataset(STATES, layout)


def external_storage(f: h5py.File) -> None:
    del f[STATES]
    f.create_dataset(STATES, (12, 32), "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def huge(f: h5py.File) -> None:
    del f[STATES]
    f.create_dataset(STATES, (12, 2**40), "f8", chunks=(1, 1024))


def bloated(f: h5py.File) -> None:
    del f[STATES]
    f.create_dataset(STATES, (12, 10**7), "f8", chunks=(1, 10**4), compression="gzip")


def pickled(f: h5py.File) -> None:
    f.create_dataset("data/demo_1/extra", (1,), h5py.vlen_dtype(np.uint8))


def opaque(f: h5py.File) -> None:
    f["data/demo_1/extra"] = np.array([b"cos\nsystem"], "V10")


def references(f: h5py.File) -> None:
    f.create_dataset("data/demo_1/extra", data=np.array([f.ref], object), dtype=h5py.ref_dtype)


def compound(f: h5py.File) -> None:
    f["data/demo_1/extra"] = np.zeros(3, [("a", "f8"), ("b", "i4")])


def cycle(f: h5py.File) -> None:
    f["data/demo_1/loop"] = f["data"]


def twice(f: h5py.File) -> None:
    f["data/demo_1/copy"] = f["data/demo_1/states"]


def deep(f: h5py.File) -> None:
    f.create_group("data/demo_1/" + "/".join("abcdefghijklmnopqrst"))


def other_filter(f: h5py.File) -> None:
    f.create_dataset("data/demo_1/extra", data=np.arange(100), scaleoffset=True)


def wide_chunks(f: h5py.File) -> None:
    f.create_dataset("data/demo_1/extra", (10, 10), "f8", maxshape=(None, None), chunks=(30_000, 10_000))


def named_type(f: h5py.File) -> None:
    f["data/demo_1/extra"] = np.dtype("f8")


def long_numbers(f: h5py.File) -> None:
    f["data/demo_1/extra"] = np.zeros(3, np.longdouble)


def crowd_of_attributes(f: h5py.File) -> None:
    for i in range(300):
        f["data/demo_1"].attrs[f"a{i}"] = i


def odd_attribute(f: h5py.File) -> None:
    f["data/demo_1"].attrs.create("r", f.ref, dtype=h5py.ref_dtype)


def odd_name(f: h5py.File) -> None:
    h5py.h5g.create(f["data/demo_1"].id, b"\xff\xfe")


@pytest.mark.parametrize(
    ("write", "key", "said"),
    [
        (link(h5py.ExternalLink("/etc/passwd", "/x")), STATES, "an external link"),
        (link(h5py.SoftLink("/data/demo_2/states")), STATES, "a soft link"),
        (virtual, STATES, "a virtual dataset"),
        (external_storage, STATES, "in an external file"),
        (huge, STATES, r"declares shape \(12, 1099511627776\)"),
        (bloated, STATES, "but stores 0"),
        (pickled, "data/demo_1/extra", "variable-length type"),
        (opaque, "data/demo_1/extra", "opaque type"),
        (references, "data/demo_1/extra", "reference type"),
        (compound, "data/demo_1/extra", "compound type"),
        (cycle, "data/demo_1/loop", "lists twice"),
        (twice, "data/demo_1/", "lists twice"),
        (deep, "data/demo_1/a/b", "deeper than 16"),
        (other_filter, "data/demo_1/extra", "filter 6; deflate"),
        (wide_chunks, "data/demo_1/extra", r"chunks of shape \(30000, 10000\)"),
        (named_type, "data/demo_1/extra", "neither a group nor a dataset"),
        (long_numbers, "data/demo_1/extra", "numbers of 16 bytes"),
        (crowd_of_attributes, "data/demo_1", "301 attributes"),
        (odd_name, "data/demo_1/", "not a name in UTF-8"),
        (odd_attribute, "data/demo_1", "attribute 'r' has an HDF5 reference type"),
    ],
)
def test_hostile_structure_is_refused_before_anything_is_read(
    tmp_path: Path, write: Write, key: str, said: str
) -> None:
    path = hdf5(tmp_path, write_robosuite, write)
    with pytest.raises(DemoError, match=said) as e:
        read_demos(path)
    assert str(path) in str(e.value)
    assert f"'{key}" in str(e.value)


def test_limits_on_the_whole_file(tmp_path: Path) -> None:
    path = hdf5(tmp_path, write_robosuite)
    with pytest.raises(DemoError, match="at most 5 are accepted"), open_checked(path, Limits(objects=5)):
        pass
    with open_checked(path, Limits(read_bytes=1000)) as f:
        f.array("data/demo_1/actions")
        with pytest.raises(DemoError, match="more than may be read"):
            f.array("data/demo_1/states")


def test_writing_refuses_what_reading_would(tmp_path: Path) -> None:
    (good,) = read_demos(hdf5(tmp_path, write_mimicgen))
    path = tmp_path / "seeds.hdf5"
    for bad, said in (
        ({"actions": np.full((12, 7), np.nan)}, "'data/demo_0/actions'.*nan"),
        ({"states": np.zeros((3, 5))}, r"'data/demo_0/states'.*\(3, 5\)"),
        ({"signals": {"a/b": np.zeros(12, bool)}}, "not a usable name"),
        ({"T_world_eef": {"right": np.zeros((12, 4, 4))}}, "not a rigid pose"),
    ):
        with pytest.raises(DemoError, match=said):
            write_demos(path, [dataclasses.replace(good, **bad)])
        assert not path.exists()
        assert not list(tmp_path.glob("*.partial"))
