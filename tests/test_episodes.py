"""Laws of the shard: what is written is read back bit for bit, entirely or not at all, and damage is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import durable
from factory.durable import sweep
from factory.episodes import (
    Column,
    Episode,
    add_clips,
    digest,
    list_renders,
    list_shards,
    read_clips,
    read_shard,
    render_digest,
    write_shard,
)
from factory.errors import DatasetError, EpisodeError
from factory.tables import arrays_from, decode_array, encode_array, layout_of, table_from
from factory.video import ClipWriter, concatenate, count_frames, decode
from tests.synthetic import make_clip, make_episode
from tests.synthetic_pictures import number_in_frame


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same(a: Episode, b: Episode) -> None:
    """Equal in every bit, -0.0 and 0.0 told apart."""
    for name in ("index", "success", "task", "instruction", "control_hz", "subtasks"):
        assert getattr(a, name) == getattr(b, name), name
    assert dict(a.provenance) == dict(b.provenance)
    assert a.columns.keys() == b.columns.keys()
    for name, column in a.columns.items():
        assert column.names == b.columns[name].names
        assert same_bits(column.values, b.columns[name].values), name
    assert a.sim_states.keys() == b.sim_states.keys()
    assert all(same_bits(a.sim_states[name], b.sim_states[name]) for name in a.sim_states)
    assert (a.start is None) == (b.start is None)
    if a.start is not None and b.start is not None:
        assert same_bits(a.start.integration, b.start.integration)
        for one, other in ((a.start.controller, b.start.controller), (a.start.overrides, b.start.overrides)):
            assert one.keys() == other.keys()
            assert all(same_bits(np.asarray(one[name]), other[name]) for name in one)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    episode = make_episode(7)
    shard = write_shard(tmp_path, episode)
    assert shard == tmp_path / "episode_00000007"
    assert_same(read_shard(shard), episode)


def test_a_dream_without_states_is_an_episode_too(tmp_path: Path) -> None:
    episode = dataclasses.replace(make_episode(), sim_states={}, start=None)
    assert_same(read_shard(write_shard(tmp_path, episode)), episode)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.sampled_from([(), (1,), (2,), (2, 3), (0,)]),
    st.sampled_from(["float64", "float32", "int64", "bool"]),
)
def test_arrays_survive_tables_and_json(numbers: list[float], row: tuple[int, ...], kind: str) -> None:
    with np.errstate(all="ignore"):
        array = np.broadcast_to(np.array(numbers).reshape(-1, *[1] * len(row)), (len(numbers), *row)).astype(kind)
    back = arrays_from(table_from({"a": array, "b": np.zeros(len(numbers))}), layout_of({"a": array}), len(numbers))
    assert same_bits(back["a"], array)
    assert same_bits(decode_array(encode_array(array)), array)


def test_the_same_episode_gives_the_same_files(tmp_path: Path) -> None:
    episode = make_episode(3)
    shuffled = dataclasses.replace(episode, columns=dict(reversed(episode.columns.items())))
    one, other = write_shard(tmp_path / "a", episode), write_shard(tmp_path / "b", shuffled)
    assert contents(one) == contents(other)


def test_the_digest_sees_content_and_not_the_clock() -> None:
    episode = make_episode(3)
    later = dataclasses.replace(episode, provenance={**episode.provenance, "finished_at": "later", "wall_s": 3.0})
    assert digest(later) == digest(episode)
    columns = {name: Column(values=c.values.copy(), names=c.names) for name, c in episode.columns.items()}
    columns["action"].values[2, 1] = np.nextafter(columns["action"].values[2, 1], np.float32(9))
    start = dataclasses.replace(episode.start, overrides={"peg_pos": np.zeros(3)})  # pyright: ignore[reportArgumentType]
    states = {**episode.sim_states, "qvel": np.abs(episode.sim_states["qvel"])}
    others = [
        dataclasses.replace(episode, columns=columns),
        dataclasses.replace(episode, sim_states=states),
        dataclasses.replace(episode, start=start),
        dataclasses.replace(episode, provenance={**episode.provenance, "seed": 1}),
    ]
    assert len({digest(other) for other in [*others, episode]}) == 5


def test_writing_again_changes_nothing_and_another_episode_is_refused(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, make_episode(3))
    before = contents(shard)
    assert write_shard(tmp_path, make_episode(3)) == shard
    with pytest.raises(EpisodeError, match="already holds another episode"):
        write_shard(tmp_path, make_episode(3, seed=1))
    assert contents(tmp_path) == {f"{shard.name}/{name}": data for name, data in before.items()}


@pytest.mark.parametrize("name", ["steps.parquet", "states.parquet", "episode.json"])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.97])
def test_a_flipped_byte_is_noticed_and_the_file_named(tmp_path: Path, name: str, where: float) -> None:
    file = write_shard(tmp_path, make_episode()) / name
    content = bytearray(file.read_bytes())
    content[int(len(content) * where)] ^= 0x20
    file.write_bytes(content)
    with pytest.raises(EpisodeError, match=f"{name} is damaged"):
        read_shard(file.parent)


@pytest.mark.parametrize("name", ["steps.parquet", "episode.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    shard = write_shard(tmp_path, make_episode())
    (shard / name).unlink()
    with pytest.raises(EpisodeError, match=name):
        read_shard(shard)


class Crash(BaseException):
    """The process dies here; nothing catches it, nothing tidies up after it."""


@pytest.mark.parametrize("tidy", [True, False])
def test_a_crash_before_the_rename_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tidy: bool
) -> None:
    first = write_shard(tmp_path, make_episode(1))
    add_clips(first, {"a": make_clip(tmp_path / "a.mp4", range(6))}, {"preset": "fast"})
    before = contents(first)

    def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        if not tidy:
            patch.setattr(durable.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            write_shard(tmp_path, make_episode(2))
        with pytest.raises(Crash):
            add_clips(first, {"a": make_clip(tmp_path / "a.mp4", range(6))}, {"preset": "faithful"})
    assert list_shards(tmp_path) == [first]
    assert list_renders(first) == [render_digest({"preset": "fast"})]
    assert len(sweep(tmp_path)) == (0 if tidy else 2)
    assert contents(first) == before
    assert_same(read_shard(write_shard(tmp_path, make_episode(2))), make_episode(2))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"columns": {}}, "no rows"),
    ({"columns": {"action": Column(values=np.zeros((3, 2)))}}, "float64, expected float32"),
    ({"columns": {"timestamp": Column(values=np.zeros(3))}}, "name is taken"),
    ({"columns": {"observation.images.a": Column(values=np.zeros(3))}}, "name is taken"),
    ({"columns": {"x": Column(values=np.zeros((3, 2)), names=("a",))}}, "1 names for rows"),
    ({"columns": {"x": Column(values=np.zeros(3)), "y": Column(values=np.zeros(4))}}, r"expected \(3,\)"),
    ({"columns": {"x": Column(values=np.zeros((3, 2, 2)))}}, "has shape"),
    ({"columns": {"x": Column(values=np.zeros(3, np.int32))}}, "int32, expected one of"),
    ({"columns": {"x": Column(values=np.array([0.0, np.nan, 1.0]))}}, "not finite in row 1"),
    ({"columns": {"subtask_index": Column(values=np.array([0, 2, 1]))}}, r"within \[0, 2\)"),
    ({"sim_states": {"qpos": np.zeros((6, 2))}}, "one more than there are actions"),
    ({"subtasks": ("a", "a")}, "name one twice"),
    ({"provenance": {"x": float("nan")}}, "not JSON"),
    ({"provenance": {"x": np.float32(1)}}, "not JSON"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_a_contradiction_is_refused_in_a_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    states = {} if "columns" in change else make_episode().sim_states
    episode = dataclasses.replace(make_episode(), **{"sim_states": states, **change})
    with pytest.raises(EpisodeError, match=sentence):
        write_shard(tmp_path, episode)
    assert not contents(tmp_path)


def test_clips_come_together_and_each_rendering_once(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shards", make_episode(rows=6))
    clips = {name: make_clip(tmp_path / f"{name}.mp4", range(6)) for name in ("a", "b")}
    with pytest.raises(EpisodeError, match="5 frames"):
        add_clips(shard, {**clips, "c": make_clip(tmp_path / "c.mp4", range(5))}, {"preset": "fast"})
    assert list_renders(shard) == []
    add_clips(shard, clips, {"preset": "fast"})
    add_clips(shard, clips, {"preset": "fast"})
    add_clips(shard, {"a": clips["a"]}, {"preset": "faithful"})
    assert len(list_renders(shard)) == 2
    back, info = read_clips(shard, render_digest({"preset": "fast"}))
    assert info == {"preset": "fast"}
    assert [number_in_frame(frame) for frame in decode(back["b"].path)] == list(range(6))
    assert np.array_equal(back["a"].histogram, clips["a"].histogram)
    with pytest.raises(EpisodeError, match="no rendering 'x'"):
        read_clips(shard, "x")
    back["b"].path.write_bytes(back["b"].path.read_bytes()[:-1] + b"x")
    with pytest.raises(EpisodeError, match=r"observation\.images\.b\.mp4 is damaged"):
        read_clips(shard, render_digest({"preset": "fast"}))


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_joined_clips_show_every_frame_at_its_time(tmp_path: Path, codec: str) -> None:
    parts = [[1, 2, 3], [700], [40, 41, 42, 43, 44, 45, 46]]
    clips = [make_clip(tmp_path / f"{i}.mp4", part, codec=codec) for i, part in enumerate(parts)]
    out = tmp_path / "all.mp4"
    assert concatenate([clip.path for clip in clips], out) == 11
    assert count_frames(out, fps=20) == 11
    assert [number_in_frame(frame) for frame in decode(out)] == [number for part in parts for number in part]


def test_the_same_frames_give_the_same_video_and_their_exact_histogram(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    for name in "ab":
        with ClipWriter(tmp_path / f"{name}.mp4", width=48, height=32, fps=30) as writer:
            for frame in frames:
                writer.write(frame)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    for channel in range(3):
        assert np.array_equal(
            writer.finish().histogram[channel], np.bincount(frames[..., channel].ravel(), minlength=256)
        )


def test_videos_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="even sizes"):
        ClipWriter(tmp_path / "x.mp4", width=33, height=32, fps=20)
    with pytest.raises(DatasetError, match="Did you mean 'h264'"):
        ClipWriter(tmp_path / "x.mp4", width=32, height=32, fps=20, codec="h265")
    with (
        pytest.raises(DatasetError, match="expected uint8"),
        ClipWriter(tmp_path / "x.mp4", width=32, height=32, fps=20) as w,
    ):
        w.write(np.zeros((32, 30, 3), np.uint8))
    with (
        pytest.raises(DatasetError, match="no frame"),
        ClipWriter(tmp_path / "x.mp4", width=32, height=32, fps=20),
    ):
        pass
    assert not (tmp_path / "x.mp4").exists()
    clips = [make_clip(tmp_path / f"{size}.mp4", [1, 2], size=size) for size in (32, 64)]
    with pytest.raises(DatasetError, match="predecessors"):
        concatenate([clip.path for clip in clips], tmp_path / "all.mp4")
    clips[0].path.write_bytes(b"no video")
    with pytest.raises(DatasetError, match="cannot be decoded"):
        list(decode(clips[0].path))
