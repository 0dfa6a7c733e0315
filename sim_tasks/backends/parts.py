"""Writes the parts and cameras of a scene as MJCF elements."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from sim_tasks.backends import compat  # noqa: F401  # isort: skip - before robosuite, whose import it quiets
from robosuite.utils.mjcf_utils import ALL_TEXTURES, CustomMaterial

from factory.errors import BackendError, unknown_name
from factory.parts import BodySpec, CameraSpec, GeomSpec, HingeSpec, SlideSpec

_TOUCHED, _SEEN = "0", "1"
"""robosuite's geom groups: shapes that collide and weigh, and shapes that are drawn."""


def add_parts(model: Any, parts: Mapping[str, BodySpec]) -> None:
    """Add parts to a robosuite model, each under its parent, children after their parents whatever the order given.

    Raises:
        BackendError: a material does not exist.
    """
    bodies: dict[str, ET.Element] = {}
    waiting = dict(parts)
    while waiting:
        for name, part in list(waiting.items()):
            if part.parent in waiting:
                continue
            bodies[name] = _body(model, name, part)
            (bodies[part.parent] if part.parent else model.worldbody).append(bodies[name])
            del waiting[name]


def add_cameras(model: Any, cameras: Mapping[str, CameraSpec]) -> None:
    """Add cameras to a robosuite model; one whose name the model has already takes its place.

    Raises:
        BackendError: a camera is mounted on a body that does not exist.
    """
    bodies = {body.get("name"): body for body in model.worldbody.iter("body")}
    for name, camera in cameras.items():
        if camera.parent and camera.parent not in bodies:
            raise BackendError(f"camera {name!r} is mounted on " + unknown_name("body", camera.parent, bodies))
        for holder in (model.worldbody, *bodies.values()):
            for old in [c for c in holder.findall("camera") if c.get("name") == name]:
                holder.remove(old)
        holder = bodies[camera.parent] if camera.parent else model.worldbody
        ahead = np.subtract(camera.look_at_m, camera.pos_m)
        right = np.cross(ahead, camera.up)
        up = np.cross(right, ahead)
        axes = np.concatenate([right / np.linalg.norm(right), up / np.linalg.norm(up)])
        holder.append(
            _element("camera", name=name, mode="fixed", pos=camera.pos_m, xyaxes=axes, fovy=(camera.fovy_deg,))
        )


def _body(model: Any, name: str, part: BodySpec) -> ET.Element:
    body = _element("body", name=f"{name}_main", pos=part.pos_m, quat=part.quat_wxyz)
    if part.joint == "free":
        body.append(_element("joint", name=f"{name}_joint", type="free"))
    elif isinstance(part.joint, HingeSpec | SlideSpec):
        body.append(_joint(f"{name}_joint", part.joint))
    for i, geom in enumerate(part.geoms):
        called = f"{name}_{geom.name or f'g{i}'}"
        if geom.touched:
            body.append(_touched(called, geom))
        body.append(_seen(model, called, geom))
    for site, spec in part.sites.items():
        # Group 0 like robosuite's own frames: it is not drawn.
        body.append(
            _element("site", name=f"{name}_{site}", pos=spec.pos_m, quat=spec.quat_wxyz, size=(0.002,), group="0")
        )
    return body


def _joint(name: str, joint: HingeSpec | SlideSpec) -> ET.Element:
    if isinstance(joint, HingeSpec):
        kind, reach, friction, at = "hinge", joint.range_rad, joint.friction_nm, joint.pos_m
    else:
        kind, reach, friction, at = "slide", joint.range_m, joint.friction_n, (0.0, 0.0, 0.0)
    return _element(
        "joint",
        name=name,
        type=kind,
        axis=joint.axis,
        pos=at,
        range=reach,
        limited="true",
        damping=(joint.damping,),
        frictionloss=(friction,),
    )


def _touched(name: str, geom: GeomSpec) -> ET.Element:
    weight = {"density": (geom.density,)} if geom.mass_kg is None else {"mass": (geom.mass_kg,)}
    return _element("geom", name=name, group=_TOUCHED, friction=geom.friction, **_place(geom), **weight)


def _seen(model: Any, name: str, geom: GeomSpec) -> ET.Element:
    look = {"rgba": geom.rgba} | ({"material": _material(model, geom.material)} if geom.material else {})
    # Beside a shape that is touched this is its picture; the model counts no mass of this group anyway.
    return _element(
        "geom", name=f"{name}_vis", group=_SEEN, contype="0", conaffinity="0", mass=(0.0,), **_place(geom), **look
    )


def _place(geom: GeomSpec) -> dict[str, Any]:
    return {"type": geom.shape, "size": geom.size_m, "pos": geom.pos_m, "quat": geom.quat_wxyz}


def _material(model: Any, texture: str) -> str:
    """Return the name of the material made of a texture, added to the model when it is the first to use it."""
    if texture not in ALL_TEXTURES:
        raise BackendError(unknown_name("material", texture, sorted(ALL_TEXTURES)))
    name = f"part_{texture}"
    if model.asset.find(f"./material[@name='{name}']") is None:
        made = CustomMaterial(
            texture=texture,
            tex_name=f"{name}_texture",
            mat_name=name,
            tex_attrib={"type": "cube"},
            mat_attrib={"texrepeat": "1 1", "specular": "0.4", "shininess": "0.1"},
        )
        model.asset.append(ET.Element("texture", made.tex_attrib))
        model.asset.append(ET.Element("material", made.mat_attrib))
    return name


def _element(tag: str, **attributes: str | Iterable[float]) -> ET.Element:
    """Return an element; numbers are written so that they are read back bit for bit."""
    written = {k: v if isinstance(v, str) else " ".join(repr(float(n)) for n in v) for k, v in attributes.items()}
    return ET.Element(tag, written)
