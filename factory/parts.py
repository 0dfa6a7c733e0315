"""What the project's own scenes are made of: bodies of primitive shapes, their joints and sites, a table, cameras.

All are frozen values; lengths in metres, angles in radians, quaternions w first. A backend builds a part NAME under
these names: its body is "NAME_main", its joint "NAME_joint", a site S of it "NAME_S", a shape that has a name G
"NAME_G" and one that has none "NAME_g0", "NAME_g1", ... by its place among the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from factory.errors import SpecError, unknown_name

Triple = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Colour = tuple[float, float, float, float]

Shape = Literal["box", "cylinder", "capsule", "sphere"]
SIZES: Mapping[str, tuple[str, ...]] = {
    "box": ("half x", "half y", "half z"),
    "cylinder": ("radius", "half length"),
    "capsule": ("radius", "half length of its straight part"),
    "sphere": ("radius",),
}
"""What the numbers of `GeomSpec.size_m` mean; cylinders and capsules lie along their own z axis."""

UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class GeomSpec:
    """One primitive shape of a body: it is seen, and unless told otherwise touched.

    Attributes:
        shape: see `SIZES`, likewise for what `size_m` means.
        size_m: see shape.
        pos_m: its middle in the body's frame.
        quat_wxyz: its turn in the body's frame.
        rgba: colour 0..1; with a material it is the tint.
        material: a texture of robosuite's by name ("WoodRed"), or none.
        density: kg/m^3; not used where `mass_kg` is given.
        mass_kg: its mass, or None.
        friction: sliding, torsional (m), rolling (m).
        touched: whether other shapes bump into it; one that is only seen has no mass.
        name: a name contact groups can use, see the module's text.
    """

    shape: Shape
    size_m: tuple[float, ...]
    pos_m: Triple = (0.0, 0.0, 0.0)
    quat_wxyz: Quaternion = UPRIGHT
    rgba: Colour = (0.7, 0.7, 0.7, 1.0)
    material: str = ""
    density: float = 1000.0
    mass_kg: float | None = None
    friction: Triple = (1.0, 0.005, 0.0001)
    touched: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        if self.shape not in SIZES:
            raise SpecError(unknown_name("shape", self.shape, SIZES))
        wanted = SIZES[self.shape]
        if len(self.size_m) != len(wanted) or min(self.size_m) <= 0:
            raise SpecError(f"a {self.shape} of size {self.size_m}; expected positive metres: {', '.join(wanted)}")
        if (self.density if self.mass_kg is None else self.mass_kg) <= 0:
            raise SpecError(
                f"a {self.shape} of density {self.density} and mass {self.mass_kg}: it must weigh something"
            )


@dataclass(frozen=True, kw_only=True)
class SiteSpec:
    """A named frame on a body, for objects whose frame is not their body's (a handle, an opening)."""

    pos_m: Triple = (0.0, 0.0, 0.0)
    quat_wxyz: Quaternion = UPRIGHT


@dataclass(frozen=True, kw_only=True)
class HingeSpec:
    """A body turns about an axis of its parent part.

    Attributes:
        axis: direction in the body's own frame.
        pos_m: a point on the axis, body's frame.
        range_rad: from, to; the body is built at 0.
        damping: N m s/rad.
        friction_nm: torque of dry friction, N m.
    """

    axis: Triple
    pos_m: Triple = (0.0, 0.0, 0.0)
    range_rad: tuple[float, float]
    damping: float = 0.05
    friction_nm: float = 0.0

    def __post_init__(self) -> None:
        _check_joint("hinge", self.axis, self.range_rad, "rad")


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """A body slides along an axis of its parent part.

    Attributes:
        axis: direction in the body's own frame.
        range_m: from, to; the body is built at 0.
        damping: N s/m.
        friction_n: dry friction, N.
    """

    axis: Triple
    range_m: tuple[float, float]
    damping: float = 2.0
    friction_n: float = 0.0

    def __post_init__(self) -> None:
        _check_joint("slide", self.axis, self.range_m, "m")


def _check_joint(kind: str, axis: Triple, reach: tuple[float, float], unit: str) -> None:
    if not any(axis):
        raise SpecError(f"a {kind} about the axis {axis}: it must point somewhere")
    if not reach[0] < reach[1]:
        raise SpecError(f"a {kind} with the range {reach} {unit}: its ends are equal or swapped")


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """A rigid part of a scene.

    Attributes:
        geoms: its shapes; mass and inertia follow from those that are touched.
        joint: "free" lies about and is placed at reset; "fixed" stands in the world, and is placed by editing the
            model, or is fastened to its parent; a hinge or slide moves against its parent.
        parent: the part this one hangs on; "" hangs on the world.
        pos_m: where it is built: in the parent's frame, or in the world without one. What is placed at reset goes
            where it is placed.
        quat_wxyz: see pos_m.
        sites: named frames on it.
    """

    geoms: tuple[GeomSpec, ...]
    joint: Literal["free", "fixed"] | HingeSpec | SlideSpec = "free"
    parent: str = ""
    pos_m: Triple = (0.0, 0.0, 0.0)
    quat_wxyz: Quaternion = UPRIGHT
    sites: Mapping[str, SiteSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.geoms:
            raise SpecError("a part without shapes; give it at least one GeomSpec")
        if isinstance(self.joint, str) and self.joint not in ("free", "fixed"):
            raise SpecError(unknown_name("joint", self.joint, ("free", "fixed")) + " (or a HingeSpec, a SlideSpec)")
        if self.joint == "free" and self.parent:
            raise SpecError(f"a part that hangs on {self.parent!r} cannot be free; it may be fixed, hinged or sliding")
        if not isinstance(self.joint, str) and not self.parent:
            raise SpecError("a hinge or slide needs a `parent` part that it moves against")
        names = [*self.sites, *(g.name for g in self.geoms if g.name)]
        if len(set(names)) != len(names) or "main" in names or "joint" in names:
            raise SpecError(f"the names {names} of sites and shapes must differ from each other, 'main' and 'joint'")
        if self.joint != "fixed" and not any(g.touched for g in self.geoms):
            raise SpecError("a part that moves needs a shape that is touched, for without one it weighs nothing")


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """The table of a scene.

    Attributes:
        size_m: full length (x), width (y), thickness.
        top_m: height of its surface.
        middle_m: where its middle is, seen from above.
    """

    size_m: Triple = (0.8, 0.8, 0.05)
    top_m: float = 0.8
    middle_m: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if min(*self.size_m, self.top_m) <= 0:
            raise SpecError(f"a table of size {self.size_m} with its top at {self.top_m}: all must be positive metres")


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A camera of a scene.

    Attributes:
        pos_m: its eye, in the parent's frame.
        look_at_m: the point in the middle of its picture, same frame.
        up: direction that is up in its picture, same frame.
        fovy_deg: vertical angle of view, degrees.
        parent: the simulator's body it is mounted on (a robot's head); "" is the world.
    """

    pos_m: Triple
    look_at_m: Triple
    up: Triple = (0.0, 0.0, 1.0)
    fovy_deg: float = 45.0
    parent: str = ""

    def __post_init__(self) -> None:
        ahead = [b - a for a, b in zip(self.pos_m, self.look_at_m, strict=True)]
        across = (
            ahead[1] * self.up[2] - ahead[2] * self.up[1],
            ahead[2] * self.up[0] - ahead[0] * self.up[2],
            ahead[0] * self.up[1] - ahead[1] * self.up[0],
        )
        if math.hypot(*across) < 1e-9:
            raise SpecError(f"a camera at {self.pos_m} that looks at {self.look_at_m} along its up direction {self.up}")
        if not 0 < self.fovy_deg < 180:
            raise SpecError(f"a camera with fovy_deg {self.fovy_deg}; it must lie between 0 and 180 degrees")


def check_parts(parts: Mapping[str, BodySpec], taken: Mapping[str, object]) -> None:
    """Refuse parts that hang on nothing, on themselves in a circle, or have a name that is taken.

    Raises:
        SpecError: naming the part.
    """
    for name, part in parts.items():
        if name in taken:
            raise SpecError(f"the name {name!r} belongs to a box and to a part")
        seen = [name]
        while part.parent:
            if part.parent not in parts:
                raise SpecError(f"part {seen[-1]!r} hangs on " + unknown_name("part", part.parent, parts))
            if part.parent in seen:
                raise SpecError(f"the parts {' -> '.join([*seen, part.parent])} hang on each other in a circle")
            seen.append(part.parent)
            part = parts[part.parent]  # noqa: PLW2901 - the walk to the world


# --- shapes that many parts need --------------------------------------------------------------------------------------


def open_box(inner_m: Triple, wall_m: float, **looks: object) -> tuple[GeomSpec, ...]:
    """Return floor and four walls of a box that is open at the top.

    Args:
        inner_m: clear length (x), width (y) and depth.
        wall_m: thickness of walls and floor.
        looks: what all five have in common: rgba, density, friction, ...

    The frame lies in the middle of the outer bottom face, z up.
    """
    x, y, depth = inner_m
    half, high = wall_m / 2, depth + wall_m
    shapes = (
        ((x / 2, y / 2, half), (0.0, 0.0, half)),
        ((half, y / 2 + wall_m, high / 2), (x / 2 + half, 0.0, high / 2)),
        ((half, y / 2 + wall_m, high / 2), (-x / 2 - half, 0.0, high / 2)),
        ((x / 2, half, high / 2), (0.0, y / 2 + half, high / 2)),
        ((x / 2, half, high / 2), (0.0, -y / 2 - half, high / 2)),
    )
    return tuple(GeomSpec(shape="box", size_m=size, pos_m=pos, **looks) for size, pos in shapes)  # pyright: ignore[reportArgumentType]


def tube(
    inner_radius_m: float,
    wall_m: float,
    length_m: float,
    *,
    sides: int = 12,
    pos_m: Triple = (0.0, 0.0, 0.0),
    **looks: object,
) -> tuple[GeomSpec, ...]:
    """Return a ring of flat boxes about the z axis: a pipe, a ring, the wall of a cup.

    Args:
        inner_radius_m: radius of the largest cylinder that passes through it.
        wall_m: thickness of each side.
        length_m: along z.
        sides: number of boxes.
        pos_m: its middle in the body's frame.
        looks: what all sides have in common: rgba, density, friction, ...
    """
    if sides < 3:
        raise SpecError(f"a tube of {sides} sides; it needs at least 3")
    out = inner_radius_m + wall_m / 2
    # Each side is as wide as the outer face of the polygon, so that there is no gap at the corners.
    half_width = (inner_radius_m + wall_m) * math.tan(math.pi / sides)
    shapes: list[GeomSpec] = []
    for i in range(sides):
        turn = 2 * math.pi * i / sides
        middle = (pos_m[0] + out * math.cos(turn), pos_m[1] + out * math.sin(turn), pos_m[2])
        quat = (math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2))
        size = (wall_m / 2, half_width, length_m / 2)
        shapes.append(GeomSpec(shape="box", size_m=size, pos_m=middle, quat_wxyz=quat, **looks))  # pyright: ignore[reportArgumentType]
    return tuple(shapes)
