"""Visual meshes with fewer triangles, for pictures that need not equal robosuite's.

Only the renderer's own compiled model is changed, and in it only which triangles are drawn: vertices, normals,
collision shapes and everything that physics reads stay. A mesh is simplified once per machine and remembered on disk
under the hash of its content.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import fcntl
import hashlib
import os
import zipfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_tasks.backends.compiling import cache_folder
from sim_tasks.backends.simplification import deviation, simplify, weld

import mujoco  # isort: skip - after robosuite, which chooses MUJOCO_GL when nobody has

TOLERANCE_M = 0.0005
"""Root mean square distance from the original's planes; a tenth of a pixel of an 84-pixel view from 1 m."""
LIMIT_M = 0.0035
"""A mesh of which any point looked at strays farther than this is drawn as it is: a third of a pixel of that view."""
_COLLISION_GROUP = 0
"""robosuite's collision shapes, which are not drawn."""
_FEWEST = 300
"""Meshes with fewer triangles cost less to draw than to look up."""
_FORM = 1
"""Counts what is stored and how it is made; another number leaves old files behind, unused."""

_PARTS = ("mesh_face", "mesh_facenormal", "mesh_facetexcoord")


def lighten(model: Any, folder: Path | None = None) -> None:
    """Let every heavy visual mesh of a compiled model be drawn with fewer triangles.

    Meshes whose material has a texture stay: a collapse would drag the picture across the surface.

    Args:
        model: a `mujoco.MjModel` that no one simulates with, before its `MjrContext` is made.
        folder: where simplified meshes are remembered; by default "meshes" in `cache_folder`.
    """
    folder = folder or cache_folder() / "meshes"
    for number in _heavy(model):
        parts = _remembered(model, number, folder)
        start, count = model.mesh_faceadr[number], len(parts[0])
        for name, part in zip(_PARTS, parts, strict=True):
            getattr(model, name)[start : start + count] = part
        model.mesh_facenum[number] = count


def _heavy(model: Any) -> list[int]:
    drawn: set[int] = set()
    textured: set[int] = set()
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        if model.geom_group[geom] == _COLLISION_GROUP:
            continue
        mesh, material = int(model.geom_dataid[geom]), int(model.geom_matid[geom])
        drawn.add(mesh)
        if material >= 0 and (model.mat_texid[material] >= 0).any():
            textured.add(mesh)
    return sorted(mesh for mesh in drawn - textured if model.mesh_facenum[mesh] >= _FEWEST)


def _remembered(model: Any, number: int, folder: Path) -> list[NDArray[np.int32]]:
    """Return a mesh's triangles from the disk, or make and store them; a disk that refuses is no obstacle.

    One process makes them; others that want meshes meanwhile wait and then read.
    """
    original, vertices, normals = _mesh(model, number)
    hasher = hashlib.sha256(f"{_FORM} {TOLERANCE_M} {LIMIT_M}".encode())
    for array in (*original, vertices, normals):
        hasher.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    place = folder / f"{hasher.hexdigest()}.npz"
    if (stored := _read(place)) is not None:
        return stored
    with _alone(folder):
        if (stored := _read(place)) is not None:
            return stored
        made = _simplified(original, vertices, normals)
        with suppress(OSError):
            mine = place.with_suffix(f".{os.getpid()}.npz")  # without a lock others may write too: the last rename wins
            np.savez_compressed(mine, **dict(zip(_PARTS, made, strict=True)))
            mine.replace(place)
        return made


def _read(place: Path) -> list[NDArray[np.int32]] | None:
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(place) as stored:
        return [stored[name] for name in _PARTS]
    return None


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError:  # nothing can be kept, so there is nothing to wait for
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the kernel however this process ends
        yield


def _mesh(model: Any, number: int) -> tuple[list[NDArray[np.int32]], NDArray[np.float32], NDArray[np.float32]]:
    """Return a mesh's triangles (rows of vertices, normals, texture coordinates), its vertices and normals."""
    start, count = model.mesh_faceadr[number], model.mesh_facenum[number]
    faces = [getattr(model, name)[start : start + count].copy() for name in _PARTS]
    vertex, normal = model.mesh_vertadr[number], model.mesh_normaladr[number]
    vertices = model.mesh_vert[vertex : vertex + model.mesh_vertnum[number]].copy()
    return faces, vertices, model.mesh_normal[normal : normal + model.mesh_normalnum[number]].copy()


def _simplified(
    original: list[NDArray[np.int32]], vertices: NDArray[np.float32], normals: NDArray[np.float32]
) -> list[NDArray[np.int32]]:
    points, welded = weld(vertices)
    before = welded[original[0]]
    after, kept = simplify(points, before, TOLERANCE_M)
    if not len(after) or deviation(points, before, after) > LIMIT_M:
        return original
    parts = [part[kept] for part in original]
    # A corner that moved takes vertex and normal from a corner that was there before, the one lit most like itself.
    moved_face, moved_corner = np.nonzero(after != before[kept])
    there = before.ravel()
    order = np.argsort(there, kind="stable")
    first = np.searchsorted(there[order], np.arange(len(points) + 1))
    point = after[moved_face, moved_corner]
    many = first[point + 1] - first[point]
    asked = np.repeat(np.arange(len(point)), many)
    offered = order[np.arange(len(asked)) - np.repeat(np.cumsum(many) - many - first[point], many)]
    own = normals[parts[1][moved_face, moved_corner]][asked]
    alike = (own * normals[original[1].ravel()[offered]]).sum(axis=1)
    ranked = np.lexsort((-alike, asked))
    chosen = offered[ranked[np.r_[True, asked[ranked][1:] != asked[ranked][:-1]]]] if len(asked) else offered
    for part, whole in zip(parts, original, strict=True):
        part[moved_face, moved_corner] = whole.ravel()[chosen]
    return parts
