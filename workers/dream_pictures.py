"""A picture of a run: what was asked, what was dreamt, and what the simulator did with it, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreams.frame_book import read_frames
from dreams.judge import sampled
from factory.episodes import read_shard
from factory.errors import SpecError
from factory.specs import RenderSpec
from workers import dream_folder

_PICTURES, _TILE, _GAP, _MARGIN, _TEXT = 8, 96, 4, 64, 20
_INK, _PALE, _PAPER = (24, 28, 36), (104, 112, 126), (250, 250, 248)
_COLOURS = {"executed_success": (24, 128, 56), "executed_failure": (176, 40, 32)}


def strips(run: dream_folder.Run, out: Path, *, count: int = 16, truth: dream_folder.Run | None = None) -> Path:
    """Draw dreams of a run, evenly spread over it whatever became of them, each above its twin where it was executed.

    Args:
        run: the run.
        out: a PNG.
        count: how many dreams.
        truth: a run of real videos from the same starts under the same sentences, to be drawn between the two.

    Raises:
        SpecError: nothing was dreamt.
    """
    rows = list(dream_folder.each_dream(run))
    if not rows:
        raise SpecError(f"{run.root} has no dreams to draw")
    rows = [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else rows
    twins = _twins(run, [(name, frame.task) for name, _, frame, _ in rows])
    height, width = rows[0][3].frames.shape[1:3]
    tile = (_TILE * width // height, _TILE)
    real = {name: found for name, *_ in rows if truth is not None and (found := truth.dream(name)) is not None}
    lines = [1 + (name in real) + (name in twins) for name, *_ in rows]
    sheet = Image.new(
        "RGB",
        (_MARGIN + _PICTURES * (tile[0] + _GAP), sum(n * (tile[1] + _GAP) + _TEXT for n in lines)),
        _PAPER,
    )
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(12), 0
    for name, proposal, _, dreamt in rows:
        judged, verified = run.record("judgements", name), run.record("verified", name)
        verdict = judged["judgement"]["verdict"] if judged else "not judged"
        tier = verified["verification"]["tier"] if verified else "not tried"
        draw.text((6, top + 3), proposal.instruction.text, font=font, fill=_INK)
        end = sheet.width - 6 - draw.textlength(f"{verdict} / {tier}", font=font)
        draw.text((end, top + 3), f"{verdict} / {tier}", font=font, fill=_COLOURS.get(tier, _PALE))
        top += _TEXT
        shown = real[name].rounds()[0] if name in real else None
        for kind, frames in (("dream", dreamt.rounds()[0]), ("real", shown), ("twin", twins.get(name))):
            if frames is None:
                continue
            draw.text((6, top + tile[1] // 2 - 6), kind, font=font, fill=_PALE)
            for k, number in enumerate(sampled(len(frames), _PICTURES)):
                picture = Image.fromarray(frames[number]).resize(tile, Image.Resampling.NEAREST)
                sheet.paste(picture, (_MARGIN + k * (tile[0] + _GAP), top))
            top += tile[1] + _GAP
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def _twins(run: dream_folder.Run, names: list[tuple[str, str | None]]) -> dict[str, Any]:
    """Return what the simulator shows of every dream that was executed, at the dream's own clock."""
    from workers.render import open_renderer  # noqa: PLC0415 - opens OpenGL

    grid = read_frames(run.frames)[0].grid
    look = RenderSpec(cameras=grid.views, width=grid.width_px, height=grid.height_px, preset="fast")
    found: dict[str, Any] = {}
    for task in dict.fromkeys(task for _, task in names if task):
        shards = {
            name: run.root / record["shard"]
            for name, of in names
            if of == task and (record := run.record("verified", name)) and "shard" in record
        }
        if not shards:
            continue
        with open_renderer(task, look) as renderer:
            for name, shard in shards.items():
                dreamt, episode = run.dream(name), read_shard(shard)
                if dreamt is None:
                    continue
                rows = np.minimum(np.arange(dreamt.time.frames) * dreamt.time.stride, len(episode))
                states = {key: values[rows] for key, values in episode.sim_states.items()}
                overrides = episode.start.overrides if episode.start else {}
                drawn = list(renderer.frames(states, overrides, visual_stream=None))
                found[name] = grid.joined({view: np.stack([each[view] for each in drawn]) for view in grid.views})
    return found
