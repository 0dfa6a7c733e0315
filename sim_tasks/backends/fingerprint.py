"""What decides whether two runs can be equal bit for bit: the model's content and the machine's software."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.core._multiarray_umath import __cpu_features__  # pyright: ignore[reportAttributeAccessIssue]

_ASSET = re.compile(r'file="([^"]+)"')
_PACKAGES = ("robosuite", "mujoco", "numpy", "numba", "trajectory-factory")


def portable_source(mjcf: str) -> str:
    """Return the MJCF with every asset path replaced by its name and content hash, free of this machine's folders."""
    return _ASSET.sub(lambda match: f'file="{_asset(match[1])}"', mjcf)


def model_sha(portable: str) -> str:
    """Return the sha256 of a portable source: equal for equal scenes and assets."""
    return hashlib.sha256(portable.encode()).hexdigest()


@functools.cache
def runtime() -> Mapping[str, str]:
    """Return versions and CPU features that results may depend on, with one short digest over them."""
    facts = {name: _version(name) for name in _PACKAGES}
    facts["python"] = platform.python_version()
    facts["cpu_features"] = hashlib.sha256(" ".join(sorted(_cpu_features())).encode()).hexdigest()[:12]
    facts["fingerprint"] = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]
    return facts


@functools.cache
def _asset(path: str) -> str:
    file = Path(path)
    content = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "missing"
    return f"{file.name}#{content}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _cpu_features() -> list[str]:
    return [platform.machine(), *(name for name, there in __cpu_features__.items() if there), np.__version__]
