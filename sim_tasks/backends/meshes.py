"""Visual meshes with fewer triangles, for pictures that need not equal robosuite's.

Only the renderer's own compiled model is changed, and in it only which triangles are drawn: vertices, normals,
collision shapes and everything that physics reads stay. A mesh is simplified once per machine and kept under the hash
of its content.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_tasks.backends import keeping
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
_FORM = 2
"""Counts what is stored and how it is made; another number leaves old files behind, unused."""

_FOLDER = "meshes"
_PARTS = ("mesh_face", "mesh_facenormal", "mesh_facetexcoord")


def lighten(model: Any) -> tuple[int, int]:
    """Let every heavy visual mesh of a compiled model be drawn with fewer triangles; return how many were made, found.

    Meshes whose material has a texture stay: a collapse would drag the picture across the surface.

    Args:
        model: a `mujoco.MjModel` that no one simulates with, before its `MjrContext` is made.
    """
    made = 0
    heavy = _heavy(model)
    for number in heavy:
        parts, new = _remembered(model, number)
        made += new
        start, count = model.mesh_faceadr[number], len(parts[0])
        for name, part in zip(_PARTS, parts, strict=True):
            getattr(model, name)[start : start + count] = part
        model.mesh_facenum[number] = count
    return made, len(heavy) - made


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


def _remembered(model: Any, number: int) -> tuple[list[NDArray[np.int32]], bool]:
    """Return a mesh's triangles, and whether they had to be made; one process makes them while others wait."""
    original, vertices, normals = _mesh(model, number)
    hasher = hashlib.sha256(f"{_FORM} {TOLERANCE_M} {LIMIT_M}".encode())
    for array in (*original, vertices, normals):
        hasher.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    name = f"{_FOLDER}/{hasher.hexdigest()}.npz"
    if (stored := _read(name)) is not None:
        return stored, False
    with keeping.alone(_FOLDER):
        if (stored := _read(name)) is not None:
            return stored, False
        made = _simplified(original, vertices, normals)
        content = io.BytesIO()
        np.savez_compressed(content, **dict(zip(_PARTS, made, strict=True)))
        keeping.keep(name, content.getvalue())
        return made, True


def _read(name: str) -> list[NDArray[np.int32]] | None:
    content = keeping.recall(name)
    if content is None:
        return None
    with np.load(io.BytesIO(content)) as stored:
        return [stored[part] for part in _PARTS]


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
