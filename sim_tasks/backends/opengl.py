"""Opening OpenGL on a machine without a screen."""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

from factory.errors import BackendError, unknown_name

_CONTEXTS = {
    "egl": "mujoco.egl",
    "osmesa": "mujoco.osmesa",
    "glfw": "mujoco.glfw",
    "glx": "mujoco.glfw",
    "cgl": "mujoco.cgl",
}
_PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6", "glfw": "libglfw3", "glx": "libglfw3"}


def platform_name() -> str:
    """Return how OpenGL will be opened: what MUJOCO_GL says, or EGL (CGL on a Mac) when it says nothing."""
    return os.environ.get("MUJOCO_GL", "").lower().strip() or ("cgl" if platform.system() == "Darwin" else "egl")


def open_context(width: int, height: int) -> Any:
    """Open an OpenGL context for pictures up to `width` x `height` pixels; it has `make_current` and `free`.

    Raises:
        BackendError: MUJOCO_GL names no platform, or the machine lacks it; the sentence says which package to install.
    """
    asked = platform_name()
    if asked not in _CONTEXTS:
        raise BackendError("MUJOCO_GL: " + unknown_name("OpenGL platform", asked, _CONTEXTS))
    try:
        return importlib.import_module(_CONTEXTS[asked]).GLContext(width, height)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise missing(error) from error


def device_name() -> str:
    """Return what the current context draws with: a graphics card's name, or llvmpipe's for drawing in software."""
    from OpenGL import GL  # noqa: PLC0415 - chooses its platform when imported

    name = GL.glGetString(GL.GL_RENDERER)
    return name.decode() if name else "unknown"


def missing(error: Exception) -> BackendError:
    """Return the sentence for what went wrong while OpenGL was loaded.

    PyOpenGL answers a missing library with an AttributeError on None, far from its cause; when MUJOCO_GL is set, that
    already happens while mujoco is imported.
    """
    asked = platform_name()
    other = "osmesa" if asked != "osmesa" else "egl"
    return BackendError(
        f"no OpenGL through {asked} (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}): {error}. "
        f"Install it with `apt-get install {_PACKAGES.get(asked, _PACKAGES['egl'])}`, or "
        f"`apt-get install {_PACKAGES[other]}` and set MUJOCO_GL={other}"
    )
