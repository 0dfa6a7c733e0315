"""What is kept only saves time: read-only, stale, damaged or for another CPU, it is made again and nothing breaks."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from factory.errors import BackendError, SpecError
from sim_tasks.backends import keeping
from sim_tasks.backends.compiling import KeptCode, compiled, is_compiled
from workers import warm as warming

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no warm one."""
    monkeypatch.setenv("FACTORY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FACTORY_WARM_DIR", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def closed(tmp_path: Path) -> str:
    """A folder that nobody can make or write, root included: it lies below a file."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "cache")


# --- keeping --------------------------------------------------------------------------------------------------------


def test_what_was_kept_is_recalled_and_nothing_else(cache):
    assert keeping.recall("a/b") is None
    assert keeping.keep("a/b", b"content")
    assert keeping.recall("a/b") == b"content"
    whole = (cache / "a/b").read_bytes()
    for position in range(len(whole)):
        (cache / "a/b").write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert keeping.recall("a/b") is None
        (cache / "a/b").write_bytes(whole[:position])
        assert keeping.recall("a/b") is None
    assert keeping.keep("a/b", b"anew")
    assert keeping.recall("a/b") == b"anew"
    assert [path.name for path in (cache / "a").iterdir()] == ["b"]


def test_the_warm_folder_is_read_and_never_written(cache, tmp_path, monkeypatch):
    assert keeping.keep("a", b"warm")
    cache.rename(tmp_path / "warm")
    monkeypatch.setenv("FACTORY_WARM_DIR", str(tmp_path / "warm"))
    before = sorted((tmp_path / "warm").rglob("*"))
    assert keeping.recall("a") == b"warm"
    (tmp_path / "warm" / "a").write_bytes(b"damaged")
    assert keeping.recall("a") is None
    with keeping.alone("folder"):
        assert keeping.keep("a", b"made")
    assert keeping.recall("a") == b"made"
    assert sorted((tmp_path / "warm").rglob("*")) == before


def test_where_nothing_can_be_kept_nothing_is_in_the_way(closed, monkeypatch):
    monkeypatch.setenv("FACTORY_CACHE_DIR", closed)
    with keeping.alone("folder"):
        assert not keeping.keep("folder/a", b"content")
    assert keeping.recall("folder/a") is None


# --- machine code ---------------------------------------------------------------------------------------------------


def thrice(x):
    return 3 * x


def asked() -> tuple[int, int]:
    """Compile a function as a new process would; return how often its code was found, and made."""
    function = compiled(thrice)
    assert function(14) == 42
    return sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())


@pytest.mark.sim
def test_code_is_made_once_and_again_where_it_is_damaged(cache, tmp_path, closed, monkeypatch):
    assert asked() == (0, 1)
    assert asked() == (1, 0)
    (place,) = cache.glob("machine-code/*/test_warm.thrice-*")
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)
    assert asked() == (0, 1)
    assert asked() == (1, 0)
    cache.rename(tmp_path / "warm")
    monkeypatch.setenv("FACTORY_WARM_DIR", str(tmp_path / "warm"))
    monkeypatch.setenv("FACTORY_CACHE_DIR", closed)
    assert asked() == (1, 0)
    monkeypatch.delenv("FACTORY_WARM_DIR")
    assert asked() == (0, 1)


@pytest.mark.sim
def test_code_of_a_file_that_has_changed_is_not_used(cache, tmp_path):
    """Any file may hold compiled functions, named in `_SOURCES` or not."""
    for factor in (3, 4):
        (tmp_path / "times.py").write_text(f"def times(x):\n    return {factor} * x\n")
        spec = importlib.util.spec_from_file_location("times", tmp_path / "times.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        spec.loader.exec_module(module)
        sys.dont_write_bytecode = before
        assert compiled(module.times)(10) == 10 * factor


def test_code_is_for_one_cpu_and_one_signature():
    def place(sig: tuple[str, ...], *cpu: str) -> str:
        return KeptCode(thrice)._place(sig, SimpleNamespace(magic_tuple=lambda: cpu))

    places = {place(sig, "x86_64", cpu) for sig in [("int64",), ("float64",)] for cpu in ("znver3", "skylake")}
    assert len(places) == 4
    assert place(("int64",), "x86_64", "znver3") in places


_READ_ONLY = """
import json
from sim_tasks.backends import compiled_path, keeping, meshes, scenes
from sim_tasks.backends.robosuite import RobosuiteBackend
from sim_tasks.catalog import TASKS
meshes._simplified = None
RobosuiteBackend(TASKS["lift"])
meshes._heavy = lambda model: [model.mesh("gripper0_right_hand_vis").id]
found = meshes.lighten(scenes.build_environment(TASKS["lift"]).sim.model._model)
stats = compiled_path.run_block.stats
print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), found]))
"""

_ELSEWHERE = """
import json
from tests.test_warm import asked
from numba.core.registry import cpu_target
print(json.dumps([*asked(), cpu_target.target_context.codegen().magic_tuple()[1]]))
"""


def run(code: str, **environment: str) -> list[object]:
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    return json.loads(said.stdout.splitlines()[-1])


@pytest.mark.sim
def test_a_worker_without_a_folder_to_write_to_reads_the_warm_one(closed, monkeypatch):
    """As in a container whose file system is read-only: nothing is compiled, no mesh is simplified."""
    monkeypatch.delenv("FACTORY_WARM_DIR", raising=False)
    (warmed,) = warming.warm(["lift"])
    assert is_compiled()
    assert warmed.meshes_there + warmed.meshes_made > 10
    warm = str(keeping.cache_folder())
    assert run(_READ_ONLY, FACTORY_CACHE_DIR=closed, FACTORY_WARM_DIR=warm) == [1, 0, [0, 1]]


@pytest.mark.sim
def test_another_cpu_makes_its_own_beside_the_warm_folder(cache, tmp_path, monkeypatch):
    assert asked() == (0, 1)
    cache.rename(tmp_path / "warm")
    monkeypatch.setenv("FACTORY_WARM_DIR", str(tmp_path / "warm"))
    other = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    if os.uname().machine != "x86_64":
        pytest.skip("names an x86-64 CPU")
    assert run(_ELSEWHERE, **other) == [0, 1, "x86-64"]
    assert run(_ELSEWHERE, **other) == [1, 0, "x86-64"]
    assert asked() == (1, 0)


# --- the command ----------------------------------------------------------------------------------------------------


class Backend:
    def describe(self):
        return {"control_mode": "compiled"}

    def close(self):
        pass


@pytest.mark.sim
def test_warm_says_where_nothing_could_be_kept(closed, monkeypatch):
    meshes = pytest.importorskip("sim_tasks.backends.meshes")
    monkeypatch.setattr(meshes, "lighten", lambda model: (0, 0))
    monkeypatch.setattr(warming, "open_backend", lambda task: Backend())
    monkeypatch.setenv("FACTORY_CACHE_DIR", closed)
    monkeypatch.delenv("FACTORY_WARM_DIR", raising=False)
    with pytest.raises(BackendError, match=f"kept in {closed}; set FACTORY_CACHE_DIR"):
        list(warming.warm(["lift"]))


def test_an_unknown_task_is_named_before_anything_is_made():
    with pytest.raises(SpecError, match="Did you mean 'lift'"):
        next(warming.warm(["stack", "litf"]))


def test_the_image_reads_the_folder_that_its_build_fills():
    text = (ROOT / "docker" / "sim.Dockerfile").read_text()
    variables = dict(re.findall(r"\b(FACTORY_\w+_DIR)=(\S+)", text.split("\nRUN FACTORY_CACHE_DIR", maxsplit=1)[0]))
    (filled,) = re.findall(r"^RUN FACTORY_CACHE_DIR=(\S+) factory warm\b", text, re.MULTILINE)
    assert variables["FACTORY_WARM_DIR"] == filled
    assert Path(variables["FACTORY_CACHE_DIR"]).parts[1] == "tmp"  # the one place that can be written
    assert Path(filled).parts[1] != "tmp"  # which is empty at each start
    assert text.index("factory warm") < text.index("\nUSER ")
