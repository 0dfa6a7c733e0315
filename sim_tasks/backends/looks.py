"""How a scene looks: lights, colours and cameras drawn anew for an episode, everything that collides left alone.

Only numbers that MuJoCo's renderer reads are touched, never alpha, sizes or poses of bodies, so that without camera
jitter the segmentation masks of an episode stay what they were (Tobin et al. 2017, "Domain Randomization for
Transferring Deep Neural Networks from Simulation to the Real World"; the ranges here are milder).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.specs import RenderSpec

LIGHT_SHIFT_M = 0.5
"""Standard deviation of a light's displacement, per axis; robosuite's lights hang 1.5 m above the floor or higher."""

LIGHT_TURN_RAD = 0.25
"""Standard deviation of a light's turn; about 14 degrees, which moves highlights but keeps the table lit."""

LIGHT_GAIN = (0.5, 1.1)
"""Factor on a light's diffuse and specular part; darker, and an 84-pixel image loses the gripper, brighter, and
robosuite's white table, which is at the limit already, swallows the shading."""

AMBIENT_GAIN = (0.6, 1.6)
"""Factor on the headlight's ambient and diffuse part, which fill the shadows."""

LIGHT_TINT = 0.08
"""Half width of the factor drawn per colour channel of a light: daylight to lamp light, no disco."""

SURFACE_TINT = 0.25
"""Half width of the factor drawn per colour channel of a material; a red cube stays the red one."""

SURFACE_GAIN = (0.6, 1.05)
"""Factor on a material's brightness; most are white already, so it darkens. A material's colour multiplies its texture,
so textures are tinted too."""

FIELDS = (
    "light_pos", "light_dir", "light_diffuse", "light_ambient", "light_specular",
    "mat_rgba", "mat_specular", "mat_shininess", "geom_rgba", "cam_pos", "cam_quat", "cam_pos0", "cam_mat0",
)  # fmt: skip
"""Arrays of the compiled model that `randomise` may write."""

HEADLIGHT_FIELDS = ("ambient", "diffuse", "specular")
"""Likewise of the light that travels with the camera."""


def randomise(model: Any, spec: RenderSpec, rng: np.random.Generator) -> None:
    """Draw lights, colours and, if asked for, camera poses, and write them over a pristine compiled model."""
    _lights(model, rng)
    _surfaces(model, rng)
    # Last, and with their own draws, so that turning jitter on leaves lights and colours as they were.
    _cameras(model, spec, rng)


def _lights(model: Any, rng: np.random.Generator) -> None:
    n = model.nlight
    model.light_pos[:] += rng.normal(0.0, LIGHT_SHIFT_M, (n, 3))
    turns = poses.matrix_from_axis_angle(rng.normal(0.0, LIGHT_TURN_RAD / np.sqrt(3.0), (n, 3)))
    model.light_dir[:] = (turns @ model.light_dir[..., None])[..., 0]
    gain = rng.uniform(*LIGHT_GAIN, (n, 1)) * rng.uniform(1.0 - LIGHT_TINT, 1.0 + LIGHT_TINT, (n, 3))
    model.light_diffuse[:] = np.clip(model.light_diffuse * gain, 0.0, 1.0)
    model.light_specular[:] = np.clip(model.light_specular * gain, 0.0, 1.0)
    head = model.vis.headlight
    gain = rng.uniform(*AMBIENT_GAIN) * rng.uniform(1.0 - LIGHT_TINT, 1.0 + LIGHT_TINT, 3)
    head.ambient = np.clip(head.ambient * gain, 0.0, 1.0)
    head.diffuse = np.clip(head.diffuse * gain, 0.0, 1.0)


def _surfaces(model: Any, rng: np.random.Generator) -> None:
    model.mat_rgba[:, :3] = _tinted(model.mat_rgba[:, :3], rng)
    model.mat_specular[:] = np.clip(model.mat_specular * rng.uniform(0.5, 1.5, model.nmat), 0.0, 1.0)
    model.mat_shininess[:] = np.clip(model.mat_shininess * rng.uniform(0.5, 1.5, model.nmat), 0.0, 1.0)
    # A geom with a material shows the material's colour; its own rgba is drawn anyway to keep the stream's length.
    tinted = _tinted(model.geom_rgba[:, :3], rng)
    bare = model.geom_matid < 0
    model.geom_rgba[bare, :3] = tinted[bare]


def _tinted(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    tint = rng.uniform(1.0 - SURFACE_TINT, 1.0 + SURFACE_TINT, rgb.shape)
    return np.clip(rgb * tint * rng.uniform(*SURFACE_GAIN, (len(rgb), 1)), 0.0, 1.0)


def _cameras(model: Any, spec: RenderSpec, rng: np.random.Generator) -> None:
    shifts, turns = rng.normal(0.0, 1.0, (2, model.ncam, 3))
    if spec.camera_jitter_m:
        model.cam_pos[:] += spec.camera_jitter_m * shifts
    if spec.camera_jitter_rad:
        # Divided by sqrt(3), so that the root mean square of the whole angle, not of one axis, is what was asked.
        turned = poses.matrix_from_axis_angle(spec.camera_jitter_rad / np.sqrt(3.0) * turns)
        model.cam_quat[:] = poses.quat_wxyz_from_matrix(poses.matrix_from_quat_wxyz(model.cam_quat) @ turned)
