"""Fewer triangles for nearly the same surface: edges are collapsed while the surface stays where it was.

Half-edge collapse: a vertex moves onto a neighbour, so every vertex of the result is one of the original's, with its
normals. What a collapse costs is the quadric of Garland and Heckbert 1997, "Surface simplification using quadric error
metrics", divided by its area: the root mean square distance from the planes of all triangles that ended up there. Many
collapses are carried out at once where they do not touch each other, so that numpy does the work.
"""

# pyright: reportAttributeAccessIssue=false
# scipy's tree comes from a compiled module without stubs.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Faces = NDArray[np.int64]

_LEAST_COSINE = 0.2
"""A triangle may turn by up to 78 degrees in one collapse; more is a fold, which no plane distance would notice."""
_LEAST_GAIN = 2e-3
"""Rounds end when one removes less than this share of the triangles: the rest would cost more time than it saves."""

_TINY = 1e-14
"""Area (m2) or length (m) that counts as none."""
_SAMPLE_M, _NEAREST = 0.003, 8
"""For `deviation`: spacing of samples that find nearby triangles, and how many are looked at."""
_SHUFFLE = 2_654_435_761
"""Knuth's multiplicative hash: an order without pattern that is the same on every machine."""
_ROW, _COLUMN = np.triu_indices(4)
_TIMES = np.where(_ROW == _COLUMN, 1.0, 2.0)


def simplify(points: Points, faces: Faces, tolerance_m: float) -> tuple[Faces, NDArray[np.int64]]:
    """Return fewer triangles over the same points, and which of the given triangles each one grew out of.

    Args:
        points: ``(V, 3)``, no two of them equal (see `weld`), metres.
        faces: ``(F, 3)`` rows of `points`, counterclockwise seen from outside. Open edges and edges of three or more
            triangles are allowed; vertices on the latter stay.
        tolerance_m: largest root mean square distance of a vertex from the planes it came to stand for. A mean, not a
            bound: `deviation` measures what became of the surface.

    Returns:
        ``(F', 3)`` and ``(F',)``.
    """
    kept = np.flatnonzero(_has_area(faces))
    faces = faces[kept]
    quadrics = _quadrics(points, faces)
    blocked = np.zeros(0, np.int64)
    awake = np.ones(len(points), bool)  # vertices whose answer may have changed since they were last asked
    while len(faces):
        wish = _wishes(points, faces, quadrics, blocked, awake, tolerance_m)
        awake[:] = False
        awake[wish.vertex] = True
        folding = _folding(points, faces, wish.target)
        blocked = np.r_[blocked, wish.edge[folding[wish.vertex]]]
        wish = wish.only(~folding[wish.vertex])
        wish = wish.only(_independent(faces, wish))
        moved_to = np.arange(len(points))
        moved_to[wish.vertex] = wish.onto
        after = moved_to[faces]
        awake[after[(after != faces).any(axis=1)]] = True
        alive = _has_area(after)
        faces, kept = after[alive], kept[alive]
        for sums in quadrics:
            np.add.at(sums, wish.onto, sums[wish.vertex])
        if len(wish.vertex) <= _LEAST_GAIN * len(faces):
            break
    return faces, kept


def weld(vertices: NDArray[np.floating]) -> tuple[Points, NDArray[np.int64]]:
    """Return the distinct points ``(P, 3)`` of ``(V, 3)`` vertices, and each vertex's row among them."""
    points, rows = np.unique(np.asarray(vertices, np.float64), axis=0, return_inverse=True)
    return points, rows.reshape(-1)


def deviation(points: Points, original: Faces, simplified: Faces) -> float:
    """Return the largest distance found between two surfaces, both ways, in metres.

    Looked at are all corners and middles of triangles; the distance is to the nearest of a few triangles of the other
    surface close by, so it may come out too large, never too small at a point looked at.
    """
    return max(_farthest(points, original, simplified), _farthest(points, simplified, original))


def _farthest(points: Points, origin: Faces, surface: Faces) -> float:
    from scipy.spatial import cKDTree  # noqa: PLC0415 - comes with robosuite; only needed where a mesh is new

    asked = np.r_[points[np.unique(origin)], points[origin].mean(axis=1)]
    _, areas = _normals(points, surface)
    many = np.ceil(areas / _SAMPLE_M**2).astype(int) + 1
    owner = np.repeat(np.arange(len(surface)), many)
    shares = np.random.default_rng(0).dirichlet((1.0, 1.0, 1.0), len(owner))
    samples = np.einsum("ij,ijk->ik", shares, points[surface[owner]])
    _, near = cKDTree(samples).query(asked, k=min(_NEAREST, len(samples)))
    corners = points[surface[owner[near.reshape(len(asked), -1)]]]
    return float(_to_triangles(asked[:, None], corners).min(axis=1).max())


def _to_triangles(q: Points, corners: Points) -> NDArray[np.float64]:
    """Return the distances of points ``(..., 3)`` from triangles ``(..., 3, 3)``."""
    a, b, c = (corners[..., k, :] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1), _TINY)[..., None]
    inside = np.ones(normal.shape[:-1], bool)
    edge = np.full(normal.shape[:-1], np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        way = end - start
        inside &= (np.cross(way, q - start) * normal).sum(-1) >= 0.0
        share = np.clip(((q - start) * way).sum(-1) / np.maximum((way**2).sum(-1), _TINY), 0.0, 1.0)
        edge = np.minimum(edge, np.linalg.norm(start + share[..., None] * way - q, axis=-1))
    return np.where(inside, np.abs(((q - a) * normal).sum(-1)), edge)


@dataclass(frozen=True)
class _Wishes:
    """Vertices and where each had best move: the neighbour, the edge's key, what it costs, cheapest first."""

    vertices: int
    vertex: NDArray[np.int64]
    onto: NDArray[np.int64]

    @property
    def edge(self) -> NDArray[np.int64]:
        return self.vertex * self.vertices + self.onto

    @property
    def target(self) -> NDArray[np.int64]:
        """For every vertex where it moves, or -1."""
        target = np.full(self.vertices, -1)
        target[self.vertex] = self.onto
        return target

    def only(self, chosen: NDArray[np.bool_]) -> _Wishes:
        return _Wishes(self.vertices, self.vertex[chosen], self.onto[chosen])


def _has_area(faces: Faces) -> NDArray[np.bool_]:
    a, b, c = faces.T
    return (a != b) & (b != c) & (c != a)


def _quadrics(points: Points, faces: Faces) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(V, 11)`` sums over triangles, and over open borders: ten entries of the quadric, then the weight."""
    n = len(points)
    normals, areas = _normals(points, faces)
    surface = np.zeros((n, 11))
    rows = _plane_rows(normals, points[faces[:, 0]], areas)
    for k in range(3):
        np.add.at(surface, faces[:, k], rows)
    # An open border is held by a plane through it, upright on its triangle.
    u, v = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    lone = ~np.isin(u * n + v, v * n + u)
    u, v, owner = u[lone], v[lone], np.repeat(np.arange(len(faces)), 3)[lone]
    way = points[v] - points[u]
    upright = np.cross(way, normals[owner])
    upright /= np.maximum(np.linalg.norm(upright, axis=1), _TINY)[:, None]
    border = np.zeros((n, 11))
    rows = _plane_rows(upright, points[u], _dot(way, way))
    for ends in (u, v):
        np.add.at(border, ends, rows)
    return surface, border


def _plane_rows(normals: Points, through: Points, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    plane = np.c_[normals, -_dot(normals, through)]
    return np.c_[plane[:, _ROW] * plane[:, _COLUMN] * weights[:, None], weights]


def _distance(sums: NDArray[np.float64], at: Points) -> NDArray[np.float64]:
    """Return the root mean square distance of points ``(n, 3)`` from the planes of quadrics ``(n, 11)``."""
    x = np.c_[at, np.ones(len(at))]
    square = (sums[:, :10] * (_TIMES * x[:, _ROW] * x[:, _COLUMN])).sum(axis=1)
    return np.sqrt(np.maximum(square, 0.0) / np.maximum(sums[:, 10], _TINY))


def _wishes(
    points: Points,
    faces: Faces,
    quadrics: tuple[NDArray[np.float64], ...],
    blocked: NDArray[np.int64],
    awake: NDArray[np.bool_],
    tolerance_m: float,
) -> _Wishes:
    """Return the cheapest collapse of each vertex that is awake and has one within the tolerance."""
    n = len(points)
    edges, along_border, fixed = _edges(faces, n)
    u, v = edges // n, edges % n
    on_border = np.bincount(u[along_border], minlength=n) > 0
    allowed = awake[u] & ~fixed[u] & (along_border | ~on_border[u])
    if len(blocked):
        allowed &= ~np.isin(edges, blocked)
    u, v, border = u[allowed], v[allowed], along_border[allowed]
    cost = np.maximum.reduce([_distance(sums[u], points[v]) for sums in quadrics])
    good = np.flatnonzero(cost < tolerance_m)
    # As many triangles at the edge as neighbours in common, or the collapse would tear or fuse the surface.
    good = good[_common_neighbours(edges, u[good], v[good], n) == np.where(border[good], 1, 2)]
    length = np.linalg.norm(points[v[good]] - points[u[good]], axis=1)
    ranked = good[np.lexsort((v[good], length, cost[good], u[good]))]
    ranked = ranked[np.r_[True, u[ranked][1:] != u[ranked][:-1]]] if len(ranked) else ranked
    # Cheaper quarters of the tolerance first, shuffled within: strictly by cost, neighbours wait for each other in long
    # chains, and few collapses fit into a round.
    quarter, shuffled = (4.0 * cost[ranked] / tolerance_m).astype(int), (u[ranked] * _SHUFFLE) % (1 << 32)
    ranked = ranked[np.lexsort((shuffled, quarter))]
    return _Wishes(n, u[ranked], v[ranked])


def _folding(points: Points, faces: Faces, target: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for which vertices the collapse would fold a triangle over, or leave none."""
    folding, left = np.zeros(len(points), bool), np.zeros(len(points), bool)
    old, _ = _normals(points, faces)
    for k in range(3):
        moving = np.flatnonzero(target[faces[:, k]] >= 0)
        vertex = faces[moving, k]
        moved = faces[moving].copy()
        stays = ~(moved == target[vertex][:, None]).any(axis=1)
        moved[:, k] = target[vertex]
        new, area = _normals(points, moved)
        folding[vertex[stays & ((_dot(new, old[moving]) < _LEAST_COSINE) | (area < _TINY))]] = True
        left[vertex[stays]] = True
    return folding | ~left


def _edges(faces: Faces, n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return all directed edges ``u * n + v`` in order, which are on an open border, and which vertices must stay."""
    u, v = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    forward, count = np.unique(u * n + v, return_counts=True)
    backward = (forward % n) * n + forward // n
    matched = np.isin(backward, forward, assume_unique=True)
    edges = np.union1d(forward, backward)
    lone = np.r_[forward[~matched], backward[~matched]]
    along_border = np.isin(edges, lone, assume_unique=True)
    fixed = np.zeros(n, bool)
    twice = forward[count > 1]
    fixed[twice // n] = fixed[twice % n] = True
    fixed |= np.bincount(edges[along_border] // n, minlength=n) > 2
    return edges, along_border, fixed


def _common_neighbours(
    edges: NDArray[np.int64], u: NDArray[np.int64], v: NDArray[np.int64], n: int
) -> NDArray[np.int64]:
    """Count, for each pair, the vertices that are neighbours of both."""
    first = np.searchsorted(edges, np.arange(n + 1) * n)
    degree = (first[1:] - first[:-1])[u]
    pair = np.repeat(np.arange(len(u)), degree)
    starts = np.cumsum(degree) - degree
    neighbour = edges[np.repeat(first[u], degree) + np.arange(len(pair)) - np.repeat(starts, degree)] % n
    asked = v[pair] * n + neighbour
    place = np.minimum(np.searchsorted(edges, asked), len(edges) - 1)
    return np.bincount(pair[edges[place] == asked], minlength=len(u))


def _independent(faces: Faces, wish: _Wishes) -> NDArray[np.bool_]:
    """Return which wishes to grant, so that no two touch a common triangle: the cheapest of each neighbourhood."""
    rank = np.full(wish.vertices, wish.vertices)
    rank[wish.vertex] = np.arange(len(wish.vertex))
    near = rank
    for _ in range(2):  # among neighbours, then among their neighbours
        lowest = near[faces].min(axis=1)
        near = near.copy()
        for k in range(3):
            np.minimum.at(near, faces[:, k], lowest)
    return near[wish.vertex] == rank[wish.vertex]


def _normals(points: Points, faces: Faces) -> tuple[Points, NDArray[np.float64]]:
    """Return unit normals and areas of triangles."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    crossed = np.cross(b - a, c - a)
    twice = np.linalg.norm(crossed, axis=1)
    return crossed / np.maximum(twice, _TINY)[:, None], twice / 2.0


def _dot(a: Points, b: Points) -> NDArray[np.float64]:
    return np.einsum("ij,ij->i", a, b)
