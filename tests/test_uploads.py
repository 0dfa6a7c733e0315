"""Uploads: whatever a file holds becomes a verdict, in a second, and nothing outside the file is ever seen."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from api import sandbox as sandbox_module
from api.sandbox import CODES, Sandbox, Verdict
from factory.demos import read_demos
from tests.hostile import CRAFTED, SECRET, Canary, craft, leaks, mutated, place_canary, plain
from tests.test_demos import assert_same

SEEDS = Path(__file__).resolve().parents[1] / "sim_tasks" / "seeds"
GIB = 1 << 30


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Canary:
    return place_canary(tmp_path_factory.mktemp("outside") / "canary")


def good_file(path: Path) -> Path:
    with h5py.File(path, "w") as f:
        plain(f)
    return path


def long_file(path: Path, mib: int = 24) -> Path:
    """A good file of random numbers, which takes about a second."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as f:
        f.create_group("data").attrs["env"] = "Lift"
        for i in range(mib):
            f[f"data/demo_{i}/actions"] = rng.normal(size=(2000, 5))
            f[f"data/demo_{i}/states"] = rng.normal(size=(2000, 60))
    return path


def sound(verdict: Verdict, canonical: Path) -> bool:
    """What holds for every verdict."""
    return (
        verdict.code in CODES
        and verdict.ok == (verdict.code == "ok") == canonical.exists() == bool(verdict.sha256)
        and bool(verdict.message) != verdict.ok
        and verdict.message.isprintable()
        and "unexpected" not in verdict.message
        and not any(place in repr(verdict) for place in (sys.prefix, sys.base_prefix, str(SEEDS.parents[1]), "/proc"))
        and [p.name for p in canonical.parent.glob("*")] == [canonical.name] * verdict.ok
    )


def eventually(true: Callable[[], object], within_s: float = 2.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.01)
    return bool(true())


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def zygote(sandbox: Sandbox) -> int:
    return sandbox._warm().process.pid


# ---- good files -----------------------------------------------------------------------------------------------------


def test_a_good_file_comes_back_in_the_projects_own_format(sandbox: Sandbox, tmp_path: Path) -> None:
    upload, canonical = good_file(tmp_path / "u"), tmp_path / "c.hdf5"
    verdict = sandbox.check(upload, canonical, name="../../My demos.hdf5")
    assert verdict.ok, verdict
    assert verdict.report == {
        "format": "robosuite",
        "environment": "Lift",
        "control_hz": 20.0,
        "demos": [
            {"name": "demo_1", "steps": 12, "states": True, "signals": []},
            {"name": "demo_2", "steps": 9, "states": True, "signals": []},
        ],
    }
    json.dumps(dict(verdict.report))
    assert verdict.size_bytes == canonical.stat().st_size
    for before, after in zip(read_demos(upload, name=""), read_demos(canonical), strict=True):
        assert after.path == ""
        assert (before.actions.tobytes(), before.states.tobytes()) == (after.actions.tobytes(), after.states.tobytes())


def test_equal_uploads_give_equal_files_whatever_they_are_called(tmp_path: Path, sandbox: Sandbox) -> None:
    first, again, other = (tmp_path / f"{i}.hdf5" for i in range(3))
    one = sandbox.check(good_file(tmp_path / "a"), first, name="a")
    with Sandbox() as elsewhere:
        two = elsewhere.check(good_file(tmp_path / "b"), other, name="b")
    assert one.sha256 == two.sha256
    assert first.read_bytes() == other.read_bytes()
    assert sandbox.check(first, again, name="c").sha256 == one.sha256, "a canonical file is its own canonical file"


def test_files_of_others(outside_demos: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    files = sorted(outside_demos.rglob("*.hdf5"))
    assert files
    for i, path in enumerate(files):
        canonical = tmp_path / f"{i}.hdf5"
        verdict = sandbox.check(path, canonical, name=path.name)
        assert verdict.ok, verdict
        before, after = read_demos(path, name="."), read_demos(canonical)
        for a, b in zip(before, after, strict=True):
            object.__setattr__(b, "path", a.path)
            assert_same(a, b)
        assert [d["steps"] for d in verdict.report["demos"]] == [len(d) for d in before]


def test_a_long_file_passes(sandbox: Sandbox, tmp_path: Path) -> None:
    upload = long_file(tmp_path / "u", 61)
    assert upload.stat().st_size > 60 << 20
    verdict = sandbox.check(upload, tmp_path / "c", name="long.hdf5")
    assert verdict.ok, verdict
    assert verdict.peak_rss_bytes < GIB


def test_several_at_once_get_their_own_verdicts(tmp_path: Path) -> None:
    names = sorted(p.stem for p in SEEDS.glob("*.hdf5"))
    with Sandbox(concurrency=3) as shared, ThreadPoolExecutor(4) as threads:

        def check(i: int) -> tuple[str, Verdict]:
            name = names[i % len(names)]
            return name, shared.check(SEEDS / f"{name}.hdf5", tmp_path / f"{i}.hdf5", name=name)

        found = list(threads.map(check, range(len(names))))
    assert all(v.ok and v.report["environment"] == name for name, v in found), found
    assert len({v.sha256 for _, v in found}) == len(names)


# ---- hostile files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files(name: str, sandbox: Sandbox, canary: Canary, tmp_path: Path) -> None:
    upload, canonical = tmp_path / "upload", tmp_path / "out" / "c.hdf5"
    craft(name, upload, canary)
    outside = canary.text.read_bytes(), canary.hdf5.read_bytes()
    verdict = sandbox.check(upload, canonical, name="upload.hdf5")
    assert sound(verdict, canonical), verdict
    assert verdict.code in CRAFTED[name][1], verdict
    assert not leaks(verdict, canonical)
    assert verdict.cpu_seconds < 2.0
    assert verdict.seconds < 5
    assert verdict.peak_rss_bytes < GIB
    assert "Errno" not in verdict.message, "something is imported too late"
    assert (canary.text.read_bytes(), canary.hdf5.read_bytes()) == outside


def test_the_canary_would_be_heard(canary: Canary, tmp_path: Path, sandbox: Sandbox) -> None:
    canonical = tmp_path / "c.hdf5"
    verdict = sandbox.check(canary.hdf5, canonical, name="x")
    assert not verdict.ok, "it lists a demo twice"
    with h5py.File(canary.hdf5, "a") as f:
        del f["data/demo_1"]
    verdict = sandbox.check(canary.hdf5, canonical, name="x")
    assert leaks("", canonical)
    assert leaks(verdict, tmp_path / "none")
    craft("external storage: actions", upload := tmp_path / "u", canary)
    with h5py.File(upload) as f:
        assert SECRET.encode() in f["data/demo_1/actions"][()].tobytes(), "plain h5py reads the canary"
    place_canary(canary.text.parent)


def test_mutated_copies(sandbox: Sandbox, canary: Canary, tmp_path: Path) -> None:
    good = (SEEDS / "lift.hdf5").read_bytes()
    upload, canonical = tmp_path / "upload", tmp_path / "out" / "c.hdf5"
    codes: dict[str, int] = {}
    for i in range(200):
        upload.write_bytes(mutated(good, i))
        canonical.unlink(missing_ok=True)
        verdict = sandbox.check(upload, canonical, name="upload.hdf5")
        assert sound(verdict, canonical), (i, verdict)
        assert not leaks(verdict, canonical), (i, verdict)
        assert verdict.cpu_seconds < 1.5, (i, verdict)
        codes[verdict.code] = codes.get(verdict.code, 0) + 1
    assert codes["unreadable"] > 50, "most mutations are felt"
    assert codes["ok"] > 5


@pytest.mark.parametrize("name", ["", "/etc/passwd", "a\nb\0c", "\ud800\u202e" * 500, "../" * 30, "名前.hdf5"])
def test_names_given_by_people(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    for content in (b"<xml/>", b"\x89HDF\r\n\x1a\n"):
        (upload := tmp_path / "u").write_bytes(content)
        verdict = sandbox.check(upload, tmp_path / "c", name=name)
        assert not verdict.ok
        assert verdict.message.isprintable()
        assert len(verdict.message) < 700
        assert "/etc" not in verdict.message
        verdict.message.encode()


# ---- what is no fault of the file -----------------------------------------------------------------------------------


def test_an_upload_that_is_not_there_is_our_error(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sandbox.check(tmp_path / "none", tmp_path / "c", name="x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        sandbox.check(tmp_path / "link", tmp_path / "c", name="x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        sandbox.check(tmp_path / "pipe", tmp_path / "c", name="x")


def test_a_full_disk_is_our_error(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, real = good_file(tmp_path / "u"), os.open

    def full(path: object, flags: int, *args: int, **more: int) -> int:
        place = "/dev/full" if flags & os.O_EXCL and str(path).endswith("c.hdf5") else path
        return real(place, flags & ~os.O_EXCL, *args, **more)

    monkeypatch.setattr(sandbox_module.os, "open", full)
    with pytest.raises(OSError, match="cannot be written") as e:
        sandbox.check(upload, tmp_path / "out" / "c.hdf5", name="x")
    assert e.value.errno == errno.ENOSPC
    assert not list((tmp_path / "out").iterdir())


# ---- the processes --------------------------------------------------------------------------------------------------


def test_a_killed_child_is_replaced(tmp_path: Path) -> None:
    upload, canonical = good_file(tmp_path / "u"), tmp_path / "c"
    with Sandbox() as sandbox:
        first = zygote(sandbox)
        os.kill(first, signal.SIGKILL)
        assert sandbox.check(upload, canonical, name="x").ok
        second = zygote(sandbox)
        assert second != first
        # Also in the middle of a check, which is then made again.
        with ThreadPoolExecutor(1) as thread:
            verdict = thread.submit(sandbox.check, long_file(tmp_path / "l"), canonical, name="x")
            assert eventually(lambda: children(second), 5)
            os.kill(second, signal.SIGKILL)
            assert verdict.result().ok
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.check(upload, canonical, name="x")


def test_a_killed_check_is_a_crash_and_the_next_one_is_fine(sandbox: Sandbox, tmp_path: Path) -> None:
    before, file = zygote(sandbox), long_file(tmp_path / "l")
    with ThreadPoolExecutor(1) as thread:
        for turn in range(10):  # the check may be over before it is found
            verdict = thread.submit(sandbox.check, file, tmp_path / f"c{turn}", name="long.hdf5")
            assert eventually(lambda: children(before), 5)
            with suppress(IndexError, ProcessLookupError):
                os.kill(children(before)[0], signal.SIGSEGV)
            if (found := verdict.result()).code == "crashed":
                break
        assert found.code == "crashed"
    assert not (tmp_path / f"c{turn}").exists()
    assert sandbox.check(good_file(tmp_path / "u"), tmp_path / "c", name="x").ok
    assert zygote(sandbox) == before


def planted(monkeypatch: pytest.MonkeyPatch, deed: str) -> Sandbox:
    """A sandbox whose forks do something else than to read the file."""
    program = f"""
import ctypes, os, signal, socket, sys, time
sys.path.append(sys.argv[1])
import api.zygote as z
warm, real = z._warm_up, z._examined
def deed(fd, name):
    {deed}
def warm_up():
    warm()
    z._examined = deed
z._warm_up = warm_up
z.main()
"""
    monkeypatch.setattr(sandbox_module, "_PROGRAM", program)
    return Sandbox(timeout_s=3)


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        ("ctypes.string_at(8)", "crashed"),
        ("os.abort()", "crashed"),
        ("os._exit(0)", "crashed"),
        ("raise SystemExit(3)", "crashed"),
        ("while True: pass", "too_slow"),
        ("[signal.signal(signal.SIGPROF, signal.SIG_IGN), [0 for _ in iter(int, 1)]]", "too_slow"),
        ("signal.setitimer(signal.ITIMER_PROF, 0); time.sleep(60)", "too_slow"),
        ("return bytearray(2 << 30)", "too_large"),
        ("return [bytearray(1 << 20) for _ in range(4000)]", "too_large too_slow"),
        ("return {'code': 'ok'}, b''", "crashed"),
        ("return {'code': 'fine', 'message': 'x'}, b''", "crashed"),
        ("z._write(5, b'['  * 100000); os._exit(0)", "crashed"),
        ("z._write(5, b'x' * (3 << 20)); os._exit(0)", "crashed"),
        ("return {'code': 'refused', 'message': str(os.environ) + str(os.listdir('/'))}, b''", "crashed"),
        ("return {'code': 'refused', 'message': open('CANARY').read()}, b''", "crashed"),
        ("open('/tmp/written', 'w'); return {'code': 'refused', 'message': 'x'}, b''", "crashed"),
        ("s = socket.socket(); s.connect(('127.0.0.1', 9)); return {'code': 'refused'}, b''", "crashed"),
        ("os.kill(os.getppid(), 9)", "crashed"),
        ("os.fork()", "crashed"),
        ("os.execv('/bin/true', ['true'])", "crashed"),
        ("socket.socket(type=socket.SOCK_DGRAM)", "crashed"),
        ("return {'code': 'ok', 'message': '', 'report': 1}, b''", "crashed"),
        ("return {'code': 'refused', 'message': repr([os.stat(i) and i for i in range(6)])}, b''", "refused"),
        ("return {'code': 'refused', 'message': 'a\\\\0\\\\ud800' + sys.prefix + '/x ' + 'y' * 9999}, b''", "refused"),
    ],
)  # fmt: skip
def test_a_fork_under_the_files_control(
    deed: str, code: str, tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORY_SECRET", SECRET)
    with planted(monkeypatch, deed.replace("CANARY", str(canary.text))) as sandbox:
        if sandbox.level.startswith("no") and ("open(" in deed or "listdir" in deed or "kill" in deed):
            pytest.skip("this kernel has no Landlock")
        before = zygote(sandbox)
        verdict = sandbox.check(good_file(tmp_path / "u"), tmp_path / "out" / "c", name="x")
        assert verdict.code in code.split(), verdict
        assert sound(verdict, tmp_path / "out" / "c"), verdict
        assert not leaks(verdict, tmp_path / "out" / "c")
        assert verdict.seconds < 4
        assert verdict.peak_rss_bytes < GIB
        assert zygote(sandbox) == before
        assert eventually(lambda: not children(before))


def test_the_lock_alone_keeps_the_outside_out(canary: Canary, tmp_path: Path, sandbox: Sandbox) -> None:
    """Without the walk: what plain h5py reads of a hostile file when the lock is on."""
    if sandbox.level.startswith("no"):
        pytest.skip("this kernel has no Landlock")
    craft("external storage: actions", tmp_path / "storage", canary)
    craft("external link: actions", tmp_path / "link", canary)
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            """if True:
            import os, sys, h5py, api.zygote as z
            for path in sys.argv[1:]:
                if os.fork() == 0:
                    fd = os.open(path, os.O_RDONLY)
                    assert z.lock(fd)
                    with h5py.File(f"/proc/self/fd/{fd}", "r", locking=False) as f:
                        assert f["data/demo_2/actions"].shape == (9, 7)
                        print(f["data/demo_1/actions"][()].tobytes())
                os.wait()
            """,
            str(tmp_path / "storage"),
            str(tmp_path / "link"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=SEEDS.parents[1],
    )
    assert SECRET not in said.stdout + said.stderr
    assert said.stderr.count("unable to open external raw data file") == said.stderr.count("can't open file") == 1


def test_without_landlock_the_walk_still_refuses_and_the_level_says_so(
    canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; sys.path.append(sys.argv[1]); import api.zygote as z; z._landlock = lambda *_: -1; z.main()"
    monkeypatch.setattr(sandbox_module, "_PROGRAM", program)
    with Sandbox() as bare:
        assert bare.level == "no landlock: rlimits only"
        assert bare.check(good_file(tmp_path / "u"), tmp_path / "c", name="x").ok
        for name in ("external link: data", "external storage: actions", "virtual: actions", "soft link: actions"):
            craft(name, tmp_path / "u", canary)
            assert bare.check(tmp_path / "u", tmp_path / "d", name="x").code == "refused"
    assert not (tmp_path / "d").exists()


def test_the_child_inherits_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY_SECRET", SECRET)
    monkeypatch.setenv("HDF5_PLUGIN_PATH", "/opt")
    with Sandbox() as fresh:
        pid = zygote(fresh)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert SECRET.encode() not in environment
        assert b"PLUGIN_PATH" not in environment
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 8


def test_a_child_that_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sandbox_module, "_PROGRAM", "raise SystemExit('no such module')")
    with Sandbox() as sandbox, pytest.raises(RuntimeError, match="did not start"):
        _ = sandbox.level
    assert "no such module" in capfd.readouterr().err


def test_nothing_is_left_when_the_service_is_killed(tmp_path: Path) -> None:
    code = f"""if True:
    import sys
    from pathlib import Path
    from api.sandbox import Sandbox
    s = Sandbox()
    print(s._warm().process.pid, flush=True)
    s.check(Path({str(long_file(tmp_path / "l", 48))!r}), Path({str(tmp_path / "c")!r}), name="x")
    """
    service = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=SEEDS.parents[1])
    assert service.stdout
    child = int(service.stdout.readline())
    assert eventually(lambda: children(child), 5)
    forks = children(child)
    service.kill()
    service.wait()
    service.stdout.close()
    assert eventually(lambda: not alive(child) and not any(map(alive, forks)))


def test_the_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    with Sandbox() as sandbox:
        pids: list[int] = []
        thread = threading.Thread(target=lambda: pids.append(zygote(sandbox)))
        thread.start()
        thread.join()
        time.sleep(0.1)
        assert alive(pids[0])
        assert sandbox.check(good_file(tmp_path / "u"), tmp_path / "c", name="x").ok
        assert zygote(sandbox) == pids[0]
        sandbox.close()
        assert not alive(pids[0])
