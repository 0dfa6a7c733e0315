"""Every store keeps one contract: a folder, and S3 as served by moto on loopback."""

from __future__ import annotations

import errno
import functools
import logging
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.store import Store
from factory.errors import StorageError

BUCKET = "factory-tests"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="install the extra: pip install -e '.[dev]'")
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield url
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store; S3 ones share a bucket and differ in their prefix."""
    if request.param == "folder":
        return Store(tmp_path / "store")
    request.getfixturevalue("endpoint")
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def bucket(endpoint: str) -> Store:
    """An empty store on S3."""
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def file(folder: Path, content: bytes, name: str = "file") -> Path:
    path = folder / "sources" / uuid.uuid4().hex / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    root = folder / "sources" / uuid.uuid4().hex
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


SHARD = {"episode.parquet": b"rows", "model.json": b"{}", "clips-1/front.mp4": b"film"}


# --- what goes in comes out -------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_went(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    store.put(file(tmp_path, data), "files/a.hdf5")
    assert store.exists("files/a.hdf5")
    assert store.size("files/a.hdf5") == len(data)
    assert b"".join(store.read("files/a.hdf5")) == data
    with store.checkout("files/a.hdf5") as place:
        assert place.read_bytes() == data
        assert place.name == "a.hdf5"
    store.fetch("files/a.hdf5", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == data


def test_a_folder_comes_back_as_it_went(store: Store, tmp_path: Path) -> None:
    store.put(tree(tmp_path, SHARD), "jobs/j/shards/episode_000001")
    assert store.exists("jobs/j/shards/episode_000001")
    assert store.exists("jobs/j/shards/episode_000001/clips-1/front.mp4")
    with store.checkout("jobs/j/shards/episode_000001") as place:
        assert content(place) == SHARD
    store.fetch("jobs/j/shards/episode_000001", tmp_path / "copy")
    assert content(tmp_path / "copy") == SHARD


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 1), (10, 20), (99, 100), (95, 500), (100, None), (7, 7)])
def test_a_range_is_the_slice(store: Store, tmp_path: Path, start: int, stop: int | None) -> None:
    data = bytes(range(100))
    store.put(file(tmp_path, data), "f")
    assert b"".join(store.read("f", start=start, stop=stop)) == data[start:stop]


def test_a_range_may_span_blocks(store: Store, tmp_path: Path) -> None:
    data = os.urandom((2 << 20) + 17)
    store.put(file(tmp_path, data), "f")
    assert b"".join(store.read("f", start=5, stop=len(data) - 3)) == data[5:-3]


def test_an_empty_file_is_a_file(store: Store, tmp_path: Path) -> None:
    store.put(file(tmp_path, b""), "empty")
    assert store.exists("empty")
    assert store.size("empty") == 0
    assert list(store.read("empty")) == []


def test_names_are_those_directly_inside(store: Store, tmp_path: Path) -> None:
    store.put(tree(tmp_path, SHARD), "jobs/j")
    store.put(file(tmp_path, b""), "jobs/single")
    assert store.names("jobs") == ["j", "single"]
    assert store.names("jobs/j") == ["clips-1", "episode.parquet", "model.json"]
    assert store.names("jobs/single") == []
    assert store.names("nothing") == []


def test_a_folder_can_be_added_to(store: Store, tmp_path: Path) -> None:
    store.put(tree(tmp_path, {"rows": b"1"}), "shard")
    store.put(tree(tmp_path, {"front.mp4": b"film"}), "shard/clips-1")
    with store.checkout("shard") as place:
        assert content(place) == {"rows": b"1", "clips-1/front.mp4": b"film"}


@pytest.mark.parametrize("before", [{"old": b"1", "both": b"1", "deep/old": b"1"}, b"a file"])
@pytest.mark.parametrize("after", [{"both": b"2", "new": b"2"}, b"another"])
def test_what_is_there_is_replaced(
    store: Store, tmp_path: Path, before: dict[str, bytes] | bytes, after: dict[str, bytes] | bytes
) -> None:
    if not store.is_local and isinstance(before, bytes) != isinstance(after, bytes):
        pytest.skip("an object store can hold a file and a folder of one name; the service never asks for it")
    for value in (before, after):
        store.put(tree(tmp_path, value) if isinstance(value, dict) else file(tmp_path, value), "k")
    with store.checkout("k") as place:
        assert (content(place) if isinstance(after, dict) else place.read_bytes()) == after


def test_putting_a_thing_where_it_is_keeps_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put(tree(tmp_path, SHARD), "shard")
    place = store.path("shard")
    assert place is not None
    store.put(place, "shard")
    assert content(place) == SHARD


def test_removing_is_thorough_and_can_be_repeated(store: Store, tmp_path: Path) -> None:
    store.put(tree(tmp_path, SHARD), "jobs/j")
    store.put(tree(tmp_path, SHARD), "jobs/j2")
    store.put(file(tmp_path, b""), "single")
    for key in ("jobs/j", "single", "jobs/j", "single", "never/there"):
        store.remove(key)
    assert not store.exists("jobs/j")
    assert not store.exists("single")
    with store.checkout("jobs/j2") as place:
        assert content(place) == SHARD


def test_stores_of_one_bucket_do_not_see_each_other(bucket: Store, tmp_path: Path) -> None:
    bucket.put(file(tmp_path, b""), "k")
    assert not Store(bucket.url + "-other").exists("k")
    assert not Store(bucket.url[:-1]).exists("k")


def test_only_a_folder_has_paths_and_free_room(tmp_path: Path, bucket: Store) -> None:
    local = Store(f"file://{tmp_path}/store")
    assert local.is_local
    assert local.path("a/b") == tmp_path / "store/a/b"
    assert (local.free_bytes() or 0) > 0
    assert (bucket.is_local, bucket.path("a/b"), bucket.free_bytes()) == (False, None, None)


# --- what is not there, and what is no key ----------------------------------------------------------------------------


def test_what_is_missing_is_said(store: Store, tmp_path: Path) -> None:
    assert not store.exists("missing")
    for ask in (
        lambda: list(store.read("missing")),
        lambda: store.size("missing"),
        lambda: store.fetch("missing", tmp_path / "place"),
        lambda: store.checkout("missing").__enter__(),
    ):
        with pytest.raises(StorageError, match="missing"):
            ask()
    assert not (tmp_path / "place").exists()


def test_a_folder_is_no_file(store: Store, tmp_path: Path) -> None:
    store.put(tree(tmp_path, SHARD), "shard")
    with pytest.raises(StorageError, match="shard"):
        list(store.read("shard"))
    with pytest.raises(StorageError, match="shard"):
        store.size("shard")


HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    ".",
    "../outside",
    "a/../../outside",
    "a/../b",
    "a/./b",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\\..\\b",
    "*",
    "jobs/*",
    "job?",
    "job[0-9]",
    "{a,b}",
    "n" * 241,
]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_is_refused_everywhere(store: Store, tmp_path: Path, key: str) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    store.put(file(tmp_path, b"kept"), "jobs/job1")
    source = file(tmp_path, b"theirs")
    for ask in (
        lambda: store.path(key) if store.is_local else store.exists(key),
        lambda: store.exists(key),
        lambda: store.size(key),
        lambda: store.put(source, key),
        lambda: list(store.read(key)),
        lambda: store.fetch(key, tmp_path / "place"),
        lambda: store.checkout(key).__enter__(),
        lambda: store.names(key),
        lambda: store.remove(key),
    ):
        with pytest.raises(StorageError, match="is not a key"):
            ask()
    assert source.exists()
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert b"".join(store.read("jobs/job1")) == b"kept"


def test_odd_but_harmless_names_are_keys(store: Store, tmp_path: Path) -> None:
    for name in ("observation.images.front_view", "a b", "~", "-", "ü", "a#b", "a%2F..%2Fb", "...", "n" * 240):
        store.put(file(tmp_path, name.encode()), f"datasets/{name}/file-000.parquet")
        assert b"".join(store.read(f"datasets/{name}/file-000.parquet")) == name.encode()
        assert store.names(f"datasets/{name}") == ["file-000.parquet"]


def test_a_name_that_others_put_into_the_bucket_does_not_lead_out_of_a_folder(
    bucket: Store, endpoint: str, tmp_path: Path
) -> None:
    import boto3

    prefix = bucket.url.removeprefix(f"s3://{BUCKET}/")
    boto3.client("s3").put_object(Bucket=BUCKET, Key=f"{prefix}/shard/../../escaped", Body=b"x")
    with pytest.raises(StorageError):
        bucket.fetch("shard", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped"))


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_an_interrupted_upload_is_an_error_and_the_next_one_completes_it(
    bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a folder may be seen; that is why only a row makes it count."""
    source = tree(tmp_path, SHARD)
    put_file, sent = bucket._remote.put_file, []

    def breaks(local: str, remote: str) -> None:
        if sent:
            raise OSError(errno.EPIPE, "the line is cut")
        sent.append(remote)
        put_file(local, remote)

    monkeypatch.setattr(bucket._remote, "put_file", breaks)
    with pytest.raises(StorageError, match="writing shard to s3://.* the line is cut"):
        bucket.put(source, "shard")
    monkeypatch.undo()
    assert len(bucket.names("shard")) == 1
    bucket.put(source, "shard")
    with bucket.checkout("shard") as place:
        assert content(place) == SHARD


def test_a_file_is_uploaded_whole_or_not_at_all(bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones go in parts, which S3 joins in one step at the end."""
    source = file(tmp_path, os.urandom(11 << 20))
    call_s3, calls = bucket._remote._call_s3, []
    in_parts = functools.partial(bucket._remote.put_file, chunksize=5 << 20)

    async def breaks(method: str, *args: object, **kwargs: object) -> object:
        calls.append(method)
        if method == "complete_multipart_upload":
            raise OSError(errno.EPIPE, "the line is cut")
        return await call_s3(method, *args, **kwargs)

    monkeypatch.setattr(bucket._remote, "put_file", in_parts)
    monkeypatch.setattr(bucket._remote, "_call_s3", breaks)
    with pytest.raises(StorageError, match="the line is cut"):
        bucket.put(source, "big")
    monkeypatch.undo()
    assert "upload_part" in calls
    assert not bucket.exists("big")


def test_a_copy_from_another_disk_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, source = Store(tmp_path / "store"), tree(tmp_path, SHARD)
    rename = Path.rename

    def across(path: Path, target: Path) -> Path:
        if path == source:
            raise OSError(errno.EXDEV, "another disk")
        return rename(path, target)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "rename", across)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(StorageError, match="no space left") as caught:
            store.put(source, "jobs/shard")
    assert isinstance(caught.value.__cause__, OSError)  # by which a full disk is told from other trouble
    assert store.names("jobs") == []
    assert not list((tmp_path / "store" / "jobs").iterdir())
    store.put(source, "jobs/shard")
    with store.checkout("jobs/shard") as place:
        assert content(place) == SHARD


def test_a_local_put_is_on_the_disk_before_it_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, source, steps = Store(tmp_path / "store"), tree(tmp_path, SHARD), []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def move(path: Path, target: Path) -> Path:
        steps.append(f"rename {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", move)
    store.put(source, "jobs/shard")
    at = steps.index("rename shard")
    assert {f"sync {Path(name).name}" for name in SHARD} | {"sync shard"} <= set(steps[:at])
    assert steps[at + 1 :] == ["sync jobs"]


def test_a_failed_fetch_leaves_nothing(bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put(tree(tmp_path, SHARD), "shard")
    get_file, got = bucket._remote.get_file, []

    def breaks(remote: str, local: str) -> None:
        if got:
            raise OSError(errno.EPIPE, "the line is cut")
        got.append(remote)
        get_file(remote, local)

    monkeypatch.setattr(bucket._remote, "get_file", breaks)
    with pytest.raises(StorageError, match="the line is cut"):
        bucket.fetch("shard", tmp_path / "places" / "shard")
    assert not list((tmp_path / "places").iterdir())


def test_leftovers_are_no_names_and_can_be_swept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put(tree(tmp_path, SHARD), "jobs/shard")
    (tmp_path / "store/jobs/.tmp-shard-12345678").mkdir()
    assert store.names("jobs") == ["shard"]
    store.sweep("jobs")
    assert [p.name for p in (tmp_path / "store/jobs").iterdir()] == ["shard"]


# --- a store that is not there ----------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_a_storage_error(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        away = Store(f"s3://{BUCKET}/away")
        for ask in (
            lambda: away.exists("k"),
            lambda: away.size("k"),
            lambda: away.names("k"),
            lambda: away.remove("k"),
            lambda: list(away.read("k")),
            lambda: away.put(file(tmp_path, b"x"), "k"),
            lambda: away.fetch("k", tmp_path / "place"),
        ):
            with pytest.raises(StorageError, match=f"s3://{BUCKET}/away"):
                ask()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("url", ["nonsense://bucket/prefix", "/dev/null/store", "file:///proc/store"])
def test_a_store_that_cannot_be_opened_is_a_storage_error(url: str) -> None:
    with pytest.raises(StorageError, match="store"):
        Store(url)


def test_a_missing_bucket_is_a_storage_error(endpoint: str, tmp_path: Path) -> None:
    nowhere = Store("s3://no-such-bucket/prefix")
    with pytest.raises(StorageError, match="no-such-bucket"):
        nowhere.put(file(tmp_path, b"x"), "k")


@pytest.mark.parametrize("by", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL"])
def test_an_endpoint_is_named_by_environment(endpoint: str, by: str) -> None:
    """As docs/cluster.md says: any of the three, in every process that opens the store."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_ENDPOINT", "FSSPEC_"))} | {by: endpoint}
    code = f"from api.store import Store; print(Store('s3://{BUCKET}/anywhere').exists('k'))"
    said = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert said.stdout.strip() == "False", said.stderr
