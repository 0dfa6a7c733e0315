"""Trains a network so that it may be killed at any moment and goes on as if it had not been.

What a step draws depends on the seed and the step's number alone, so there is no state of random numbers to keep.
Weights, their running mean and the optimiser's moments are written together under a temporary name and renamed.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from factory.durable import TMP, json_bytes, rename_into_place, sha256_file, staging, sweep, sync_tree
from factory.errors import DatasetError, SpecError

LOG = "loss.jsonl"
"""One line a step: its number and what the loss was, by part."""
_STATE = "state-"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: gradient steps in all; the learning rate falls to zero over them as a cosine.
        batch: examples in a step.
        rate: highest learning rate, of AdamW (Loshchilov and Hutter 2019).
        warmup: steps until it is reached.
        decay: weight decay.
        mean: decay of the running mean of the weights, which is what training leaves; shorter at the beginning.
        keep_every: steps between two states on the disk.
        seed: of every draw and of the first weights.
    """

    steps: int
    batch: int = 16
    rate: float = 1e-3
    warmup: int = 50
    decay: float = 1e-2
    mean: float = 0.99
    keep_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.keep_every) < 1 or self.warmup < 0 or self.rate <= 0.0:
            raise SpecError(f"training needs at least one step, one example and one state, and a rate: {self}")
        if not 0.0 <= self.mean < 1.0:
            raise SpecError(f"the running mean's decay is {self.mean}, expected 0 to less than 1")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: a linear warm-up, then a half cosine to zero."""
        rising = (step + 1) / self.warmup if step < self.warmup else 1.0
        return self.rate * min(rising, 1.0) * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


Loss = Callable[[torch.Generator], Mapping[str, Tensor]]
"""Parts of the loss of one batch that it draws; they are added."""


def generator_of(*seeds: int) -> torch.Generator:
    """Return a generator, on the CPU, that depends on all of the numbers and nothing else."""
    state = 0
    for number in seeds:
        state = (state * 6364136223846793005 + number + 1442695040888963407) % (1 << 63)
    return torch.Generator().manual_seed(state)


def descend(
    net: nn.Module, loss: Loss, folder: Path, schedule: Schedule, *, about: Any, max_s: float = math.inf
) -> int:
    """Train `net` from where `folder` says it was left; return how many steps are done in all.

    Afterwards `net` holds the running mean of the weights, and the folder what is needed to go on. The same seed makes
    the same weights, bit by bit on one machine, however often it was stopped. Called again with other `steps` it goes
    on under the new schedule: the rate falls to zero at the new end.

    Args:
        net: with its first weights, which come from the seed.
        loss: of a batch, differentiable in the weights.
        folder: for states and the log; made if it is not there.
        schedule: how.
        about: JSON: what is trained on what. A folder that says something else is refused.
        max_s: seconds after which it stops at the next step, a state written.

    Raises:
        DatasetError: the folder is another training's, or past the last step asked for, or a state in it is unreadable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    known = json.loads(json_bytes(about))
    mean = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=schedule.rate, weight_decay=schedule.decay, betas=(0.9, 0.99))
    done = _resumed(folder, net, optimiser, mean, known)
    if done > schedule.steps:
        raise DatasetError(
            f"{folder} holds a training that is at step {done}; it cannot end at step {schedule.steps}. Give as many "
            "steps or more, or another folder"
        )
    if done == 0:
        _write_state(folder, 0, net, optimiser, mean, known)
    began = time.monotonic()
    net.train()
    with (folder / LOG).open("a", encoding="utf-8") as log:
        while done < schedule.steps and time.monotonic() - began < max_s:
            parts = _step(net, loss, optimiser, schedule, done, mean)
            done += 1
            log.write(json.dumps({"step": done, **parts}) + "\n")
            if done % schedule.keep_every == 0:
                log.flush()
                _write_state(folder, done, net, optimiser, mean, known)
    if done % schedule.keep_every:
        _write_state(folder, done, net, optimiser, mean, known)
    net.load_state_dict(mean)
    return done


def publish(net: nn.Module, folder: Path, name: str, about: Mapping[str, Any]) -> str:
    """Write the weights, then the JSON file that names them, then remove weights of before; return their version.

    Whoever opens the JSON file at any moment finds the weights that it names. It says all of `about`, and besides
    "weights", the file's name, and "version", the beginning of its SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f"{TMP}weights"
    save_file({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, staged)
    staged.chmod(0o644)  # safetensors makes files that only their owner can read
    version = sha256_file(staged)[:12]
    weights = f"weights-{version}.safetensors"
    staged.replace(folder / weights)
    said = folder / f"{TMP}{name}"
    said.write_bytes(json_bytes({**about, "weights": weights, "version": version}) + b"\n")
    sync_tree(folder)
    said.replace(folder / name)
    for old in folder.glob("weights-*.safetensors"):
        if old.name != weights:
            old.unlink()
    return version


def _step(
    net: nn.Module, loss: Loss, optimiser: torch.optim.AdamW, schedule: Schedule, done: int, mean: dict[str, Tensor]
) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = schedule.rate_at(done)
    parts = loss(generator_of(schedule.seed, 1, done))
    total = torch.stack(list(parts.values())).sum()
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    # A long mean would still remember the random weights at the beginning, so it grows with the steps.
    keep = min(schedule.mean, (1.0 + done) / (10.0 + done))
    with torch.no_grad():
        for name, value in net.state_dict().items():
            mean[name].lerp_(value, 1.0 - keep) if value.is_floating_point() else mean[name].copy_(value)
    return {name: float(f"{value.item():.6g}") for name, value in parts.items()}


def _write_state(
    folder: Path, done: int, net: nn.Module, optimiser: torch.optim.AdamW, mean: Mapping[str, Tensor], about: Any
) -> None:
    """Write the state after `done` steps; older ones go once it is there."""
    place = folder / f"{_STATE}{done:08d}"
    names = [name for name, _ in net.named_parameters()]
    moments = {
        f"{part}/{name}": optimiser.state[value][part].contiguous()
        for name, value in net.named_parameters()
        for part in ("exp_avg", "exp_avg_sq", "step")
        if value in optimiser.state
    }
    with staging(place) as staged:
        save_file({f"now/{k}": v.contiguous() for k, v in net.state_dict().items()}, staged / "now.safetensors")
        save_file({f"mean/{k}": v.contiguous() for k, v in mean.items()}, staged / "mean.safetensors")
        save_file(moments, staged / "moments.safetensors")
        (staged / "state.json").write_bytes(json_bytes({"step": done, "about": about, "parameters": names}))
        rename_into_place(staged, place)
    for old in folder.glob(f"{_STATE}*"):
        if old != place:
            gone = old.rename(folder / f"{TMP}{old.name}")  # never half a state under a state's name
            shutil.rmtree(gone)


def _resumed(folder: Path, net: nn.Module, optimiser: torch.optim.AdamW, mean: dict[str, Tensor], about: Any) -> int:
    """Load the newest state into everything given; return its step, 0 where there is none."""
    states = sorted(folder.glob(f"{_STATE}*"))
    if not states:
        (folder / LOG).unlink(missing_ok=True)
        return 0
    try:
        said = json.loads((states[-1] / "state.json").read_bytes())
        device = next(net.parameters()).device
        parts = {part: load_file(states[-1] / f"{part}.safetensors", str(device)) for part in ("now", "mean")}
        moments = load_file(states[-1] / "moments.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DatasetError(f"{states[-1]} is no readable state of a training: {error}") from error
    before, now = _but_steps(said["about"]), _but_steps(about)
    if before != now:
        differs = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        raise DatasetError(
            f"{folder} holds another training: {', '.join(sorted(differs))} differ; give another folder or equal data"
        )
    net.load_state_dict({k.removeprefix("now/"): v for k, v in parts["now"].items()})
    mean.update({k.removeprefix("mean/"): v for k, v in parts["mean"].items()})
    for name, value in net.named_parameters():
        if f"exp_avg/{name}" in moments:
            each = {part: moments[f"{part}/{name}"] for part in ("exp_avg", "exp_avg_sq", "step")}
            optimiser.state[value] = {k: v if k == "step" else v.to(value.device) for k, v in each.items()}
    _cut_log(folder / LOG, said["step"])
    return int(said["step"])


def _but_steps(about: Any) -> dict[str, Any]:
    """Return what is trained on what, but for how long: a training may be asked to end sooner or later than it was."""
    schedule = {key: value for key, value in about.get("schedule", {}).items() if key != "steps"}
    return {**about, "schedule": schedule}


def _cut_log(path: Path, done: int) -> None:
    """Leave the log's first `done` lines: later steps are taken again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(lines[:done]), encoding="utf-8")
