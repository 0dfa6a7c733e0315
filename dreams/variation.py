"""Variations of a first frame by an image model: other light, other surfaces, the same scene, one hopes.

The model repaints the picture, not the world. So a variation is not replayable, unless it is checked that where the
robot and the things are it still looks like the state that its original shows.
"""

# pyright: basic, reportPrivateImportUsage=false
# diffusers decides by the folder's configuration which class it loads.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dreams.frames import FirstFrame, Picture
from factory.errors import SpecError

Checks = Callable[[FirstFrame, Picture], bool]
"""Whether a variation of a frame still shows the frame's state."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class VariationSpec:
    """How a frame is varied.

    Attributes:
        prompt: what the model is told to paint.
        strength: how much of the noise schedule is gone through, in (0, 1]: at 1 nothing is left of the original.
        steps: of the whole schedule; strength x steps are taken.
        guidance: scale of classifier-free guidance; 1 for none.
    """

    prompt: str
    strength: float = 0.4
    steps: int = 30
    guidance: float = 5.0

    def __post_init__(self) -> None:
        if not 0.0 < self.strength <= 1.0 or self.steps < 1 or int(self.steps * self.strength) < 1:
            raise SpecError(
                f"a variation of strength {self.strength} in {self.steps} steps; expected a strength in (0, 1] and "
                "enough steps for one of them to be taken"
            )


class ImageModel:
    """An image-to-image pipeline of diffusers, loaded from a folder, held open.

    Attributes:
        name: the folder's.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Load it; nothing is downloaded.

        Raises:
            SpecError: the folder holds no pipeline that makes images from images, in safetensors.
        """
        if not (folder / "model_index.json").is_file():
            raise SpecError(
                f"{folder} holds no diffusers pipeline (model_index.json); fetch one, e.g. `hf download "
                "stabilityai/sd-turbo --local-dir FOLDER`"
            )
        try:
            self._pipeline: Any = diffusers.AutoPipelineForImage2Image.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpecError(f"{folder} does not load as an image-to-image pipeline: {error}") from error
        self._pipeline.set_progress_bar_config(disable=True)
        self._pipeline.to(device)
        self.name = folder.name

    def painted(self, picture: Picture, spec: VariationSpec, *, seed: int) -> Picture:
        """Return the picture repainted, in its own size; the same seed, the same pixels on one machine."""
        height, width = picture.shape[:2]
        # Sides that the model can halve as often as it must; the result is brought back.
        size = (-(-width // 64) * 64, -(-height // 64) * 64)
        made = self._pipeline(
            prompt=spec.prompt,
            image=Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC),
            strength=spec.strength,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return np.asarray(made.convert("RGB").resize((width, height), Image.Resampling.BOX), np.uint8)


def variations(
    frame: FirstFrame, model: ImageModel, spec: VariationSpec, *, count: int, seed: int, checks: Checks | None = None
) -> Iterator[FirstFrame]:
    """Yield variations of a frame, each named after it; see the module for which are replayable.

    Variation i depends on the seed and i alone. Each keeps the state and the knowledge of its original only where the
    check says that it still shows them: a proposer must not speak of things that were painted over.
    """
    for number in range(count):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        picture = model.painted(frame.picture, spec, seed=own)
        same = frame.replayable and checks is not None and checks(frame, picture)
        varied = replace(
            frame,
            name=f"{frame.name}~{model.name}-{seed}-{number}",
            picture=picture,
            source=f"img2img:{model.name} of {frame.name}",
        )
        yield varied if same else replace(varied, replayable=False, state=None, model_sha="", placements={}, scene=None)


def looks_alike(masks: Mapping[str, Mask], *, most: float = 0.1) -> Checks:
    """Return a check against the simulator's own picture, for every masked part by itself.

    Args:
        masks: the robot's and each thing's name -> ``(h, w)`` where it is in the frame, from the simulator's
            segmentation; an empty one, of what cannot be seen, is passed over.
        most: mean absolute difference of a part's pixels, of 1, that still is the same thing in the same place: other
            light changes a colour by less, another thing or the table changes it by more.

    Raises:
        SpecError: no mask shows anything, so nothing could be checked.
    """
    parts = {name: mask for name, mask in masks.items() if mask.any()}
    if not parts:
        raise SpecError("a check needs masks of what must stay; there is none with a pixel in it")

    def check(frame: FirstFrame, picture: Picture) -> bool:
        away = np.abs(picture.astype(float) - frame.picture).mean(axis=-1) / 255.0
        return all(float(away[mask].mean()) <= most for mask in parts.values())

    return check
