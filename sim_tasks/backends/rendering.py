"""Pictures of recorded states: the pixels of an episode, made after its physics."""

# pyright: reportAttributeAccessIssue=false
# mujoco's functions and types come from a compiled module without stubs.

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import BackendError, SpecError, unknown_name
from factory.extras import Frames, to_millimetres
from factory.specs import Extra, RenderSpec, TaskSpec
from factory.streams import spawn_streams
from sim_tasks.backends import looks, meshes
from sim_tasks.backends.labels import label_geoms
from sim_tasks.backends.opengl import device_name, open_context
from sim_tasks.backends.scenes import build_environment
from sim_tasks.backends.visibility import View

import mujoco  # isort: skip - after robosuite, which chooses MUJOCO_GL when nobody has

Image = NDArray[np.uint8]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pictures = tuple[dict[str, Image], dict[tuple[Extra, str], Frames]]
"""Camera -> image ``(height, width, 3)``, and (kind, camera) -> ``(height, width)`` as `factory.extras` stores it."""

_MAX_GEOMS = 10_000
"""Room for drawn geoms, robosuite's number; decorations count too."""

_HIDDEN_M = -10.0
"""Height of a scene's hidden bodies, as in the backend that simulates them."""

_COLLISION_GROUP, _UNDRAWN_GROUP = 0, 5
"""Geom groups that are not drawn: robosuite's collision shapes, and one that no robosuite model uses."""


class EpisodeRenderer:
    """Holds a compiled scene and an OpenGL context open, and draws recorded states with them.

    The same states give the same pixels in every process on one machine. Images have their first row at the top.
    Close it in the process and thread that made it; it is a context manager.

    Attributes:
        device: what draws, as OpenGL calls it: a graphics card, or llvmpipe where the CPU does it.
        about: what the extras that were asked for mean, JSON: "legend" name -> id, and each camera's "fovy_deg", the
            vertical angle of view; empty where none were.
    """

    def __init__(self, task: TaskSpec, spec: RenderSpec) -> None:
        """Compile the task's scene and open an offscreen buffer of the wanted size.

        Raises:
            SpecError: the scene has no camera of that name, or cannot be segmented.
            BackendError: the scene does not build, or no OpenGL can be opened.
        """
        self.spec = spec
        model = build_environment(task).sim.model._model  # noqa: SLF001 - robosuite wraps it without an accessor
        self.cameras = {name: _camera(model, name, f"task {task.name!r}") for name in spec.cameras}
        if spec.preset == "fast":
            model.vis.quality.offsamples = 0
            meshes.lighten(model)
        model.vis.global_.offwidth, model.vis.global_.offheight = spec.width, spec.height
        for name in task.scene.hidden_bodies:
            model.body(name).pos[2] = _HIDDEN_M
        self._model, self._data = model, mujoco.MjData(model)
        labels = label_geoms(model, task) if spec.extras else None
        self._labels = labels.of_geom if labels else ()
        angles = {name: {"fovy_deg": float(model.cam_fovy[c.fixedcamid])} for name, c in self.cameras.items()}
        self.about: dict[str, Any] = {"legend": labels.legend, "cameras": angles} if labels else {}
        self._pristine = _written(model)
        self._episode: object = None
        self._gl: Any = open_context(spec.width, spec.height)
        self._gl.make_current()
        self.device = device_name()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR  # as it is kept: no bits lost on what is far
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._option.geomgroup[_COLLISION_GROUP] = self._option.geomgroup[_UNDRAWN_GROUP] = 0
        if spec.preset == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._shadows = spec.preset == "faithful" and bool(model.light_castshadow.any())
        self._mirror = _mirror(model) if spec.preset == "faithful" else None
        self._upside_down = np.empty((spec.height, spec.width, 3), np.uint8)
        self._nearness = np.empty((spec.height, spec.width), np.float32)

    def frames(
        self, states: Mapping[str, Array], overrides: Mapping[str, Array], *, visual_stream: np.random.Generator | None
    ) -> Iterator[dict[str, Image]]:
        """Yield camera name -> image ``(height, width, 3)`` for every state; arguments and errors as in `pictures`."""
        return (images for images, _ in self._pictures(states, overrides, visual_stream, extras=()))

    def pictures(
        self, states: Mapping[str, Array], overrides: Mapping[str, Array], *, visual_stream: np.random.Generator | None
    ) -> Iterator[Pictures]:
        """Yield the images of every state, and the extras that the specification asks for.

        Extras are drawn from the same scene as the image, one sample per pixel centre. Sites are not in them.

        Args:
            states: "qpos" ``(T, nq)`` and "qvel" ``(T, nv)``; other names are ignored.
            overrides: "body_pos:NAME" ``(3,)`` and "body_quat:NAME" ``(4,)`` wxyz, written over the compiled model.
            visual_stream: draws lights, colours and camera jitter, once; None keeps the scene's looks.

        Raises:
            SpecError: an override names an unknown body or field.
            BackendError: the arrays do not fit the scene, or a later episode was begun on this renderer.
        """
        return self._pictures(states, overrides, visual_stream, extras=self.spec.extras)

    def close(self) -> None:
        """Release buffers and the OpenGL context; closing twice is fine."""
        if self._gl is None:
            return
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._gl = None

    def __enter__(self) -> EpisodeRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pictures(
        self,
        states: Mapping[str, Array],
        overrides: Mapping[str, Array],
        rng: np.random.Generator | None,
        *,
        extras: Collection[Extra],
    ) -> Iterator[Pictures]:
        for _ in self._poses(states, overrides, rng):
            images: dict[str, Image] = {}
            layers: dict[tuple[Extra, str], Frames] = {}
            for name, camera in self.cameras.items():
                images[name] = self._image(camera)
                if extras:
                    layers |= {(kind, name): layer for kind, layer in self._layers().items() if kind in extras}
            yield images, layers

    def _poses(
        self, states: Mapping[str, Array], overrides: Mapping[str, Array], rng: np.random.Generator | None
    ) -> Iterator[None]:
        """Put the scene into one state after another, ready to be drawn."""
        model, data = self._model, self._data
        qpos, qvel = _rows(states, "qpos", model.nq), _rows(states, "qvel", model.nv)
        mine = self._episode = object()
        _restore(model, self._pristine)
        _override(model, overrides)
        if rng is not None:
            looks.randomise(model, self.spec, rng)
        for row in range(len(qpos)):
            if self._episode is not mine:
                raise BackendError("a renderer draws one episode at a time: finish the first or open a second renderer")
            data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
            # Positions are all a picture needs: no contacts, no forces. comPos for cameras that track a centre of mass.
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_camlight(model, data)
            self._gl.make_current()  # another renderer of this process may have drawn in between
            yield

    def _image(self, camera: mujoco.MjvCamera) -> Image:
        """Return the picture of the posed scene, drawing only what can be seen in it, directly or in its mirror.

        With a mirror MuJoCo draws everything twice. A hand camera rarely sees the floor beside the table, and then the
        second drawing changes no pixel and is left out.
        """
        if self._shadows:  # what is outside the view may darken what is inside
            return self._drawn(camera, np.zeros(self._model.ngeom, bool), mirrors=True)
        view = View(self._model, self._data, camera.fixedcamid, self.spec.width, self.spec.height)
        outside = view.outside()
        if self._mirror is None or outside[self._mirror] or self._mirror_is_hidden(camera, self._mirror, outside):
            return self._drawn(camera, outside)
        return self._drawn(camera, outside & view.outside(mirrored_in=self._mirror), mirrors=True)

    def _mirror_is_hidden(self, camera: mujoco.MjvCamera, mirror: int, outside: Mask) -> bool:
        """Return whether simple shapes alone hide the mirror; asked only where the answer pays for the question.

        That is for a floor, seen by a camera that moves: one that stands still looks at a scene with floor in it.
        """
        floor = self._model.geom_type[mirror] == mujoco.mjtGeom.mjGEOM_PLANE
        if not floor or self._model.body_weldid[self._model.cam_bodyid[camera.fixedcamid]] == 0:
            return False
        self._update(camera, outside | (self._model.geom_type == mujoco.mjtGeom.mjGEOM_MESH))
        for geom in self._scene.geoms[: self._scene.ngeom]:
            glows = geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.objid == mirror
            geom.matid, geom.texid, geom.specular, geom.reflectance = -1, -1, 0.0, 0.0
            geom.emission = 1.0 if glows else 0.0
            geom.rgba = (glows, glows, glows, 0.0 if geom.transparent and not glows else 1.0)
        flags = self._scene.flags
        kept = np.array(flags)
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        shown = self._read(mirrors=False).any()
        flags[:] = kept
        return not shown

    def _drawn(self, camera: mujoco.MjvCamera, hidden: Mask, *, mirrors: bool = False) -> Image:
        self._update(camera, hidden)
        return self._read(mirrors=mirrors)

    def _update(self, camera: mujoco.MjvCamera, hidden: Mask) -> None:
        groups = self._model.geom_group
        kept, groups[hidden] = groups[hidden], _UNDRAWN_GROUP
        # The whole scene anew for each camera: the headlight travels with it, and this takes 3 microseconds.
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._option, self._perturb, camera, everything, self._scene)
        groups[hidden] = kept

    def _read(self, *, mirrors: bool) -> Image:
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = int(mirrors and self.spec.preset == "faithful")
        rect = mujoco.MjrRect(0, 0, self.spec.width, self.spec.height)
        mujoco.mjr_render(rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._upside_down, None, rect, self._context)
        return np.ascontiguousarray(self._upside_down[::-1])

    def _layers(self) -> dict[Extra, Frames]:
        """Draw the scene of the last image once more, as ids and distances.

        MuJoCo shows a segment id as the colour id + 1, low byte first, and does not draw a geom whose id is negative.
        It draws ids one sample a pixel, whatever the buffer has, and the distances with them.
        """
        scene, flags = self._scene, self._scene.flags
        for geom in scene.geoms[: scene.ngeom]:
            geom.segid = self._labels[geom.objid] if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM else -1
        kept = np.array(flags)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
            flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        rect = mujoco.MjrRect(0, 0, self.spec.width, self.spec.height)
        mujoco.mjr_render(rect, scene, self._context)
        mujoco.mjr_readPixels(self._upside_down, self._nearness, rect, self._context)
        flags[:] = kept
        ids = np.maximum(self._upside_down[::-1, :, 0], 1) - 1
        # 1 at the near plane, 0 at the far one, and in between linear in 1 / distance.
        near, far = (float(getattr(scene.camera[0], f"frustum_{plane}")) for plane in ("near", "far"))
        distance = near * far / (near + self._nearness.astype(float) * (far - near))
        distance[self._nearness <= 0.0] = np.inf
        return {"segmentation": ids.astype(np.uint8), "depth": to_millimetres(distance[::-1])}


def visual_stream(spec: RenderSpec, index: int) -> np.random.Generator | None:
    """Return the generator of an episode's looks: a function of the visual seed and the attempt index alone."""
    return None if spec.visual_seed is None else spawn_streams(spec.visual_seed, index).visual


def _mirror(model: Any) -> int | None:
    """Return the geom that MuJoCo draws reflections in: the first plane or box of a reflecting material, no other."""
    flat = np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE.value, mujoco.mjtGeom.mjGEOM_BOX.value))
    shiny = np.append(model.mat_reflectance, 0.0)[model.geom_matid] > 0.0  # geoms without material have -1
    found = np.flatnonzero(flat & shiny & (model.geom_group != _COLLISION_GROUP))
    return int(found[0]) if len(found) else None


def _camera(model: Any, name: str, where: str) -> mujoco.MjvCamera:
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
    if number < 0:
        known = [model.camera(i).name for i in range(model.ncam)]
        raise SpecError(f"{where}: " + unknown_name("camera", name, known))
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
    return camera


def _rows(states: Mapping[str, Array], name: str, width: int) -> Array:
    rows = np.asarray(states[name]) if name in states else None
    if rows is None or rows.ndim != 2 or rows.shape[1] != width:
        found = "nothing" if rows is None else f"shape {rows.shape}"
        raise BackendError(f"states[{name!r}]: found {found}, the scene needs (T, {width}); were they recorded in it?")
    return rows


def _override(model: Any, overrides: Mapping[str, Array]) -> None:
    for key, value in overrides.items():
        field, _, body = key.partition(":")
        if field not in ("body_pos", "body_quat"):
            raise SpecError(f"override {key!r}: " + unknown_name("field", field, ("body_pos", "body_quat")))
        number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)
        if number < 0:
            known = [model.body(i).name for i in range(model.nbody)]
            raise SpecError(f"override {key!r}: " + unknown_name("body", body, known))
        getattr(model, field)[number] = value


def _written(model: Any) -> dict[str, NDArray[Any]]:
    """Copy everything that an episode may write over the model."""
    fields = {name: getattr(model, name).copy() for name in ("body_pos", "body_quat", *looks.FIELDS)}
    return fields | {f"headlight {name}": getattr(model.vis.headlight, name).copy() for name in looks.HEADLIGHT_FIELDS}


def _restore(model: Any, pristine: Mapping[str, NDArray[Any]]) -> None:
    for name in ("body_pos", "body_quat", *looks.FIELDS):
        getattr(model, name)[:] = pristine[name]
    for name in looks.HEADLIGHT_FIELDS:
        setattr(model.vis.headlight, name, pristine[f"headlight {name}"])
