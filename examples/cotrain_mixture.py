"""Draws co-training batches from a mixture of datasets, with lerobot's own loader.

    python examples/cotrain_mixture.py mixture.json --batches 20

Run it where lerobot is installed; it imports nothing of this project. Every sample says which embodiment it is, and is
normalised with the statistics of its own dataset, so that a policy can give dreams a head of their own as GR00T N1
does. Samples of one batch come from all datasets, in the manifest's shares.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler

NORMALISED = ("action", "observation.state")


class Tagged(Dataset):
    """A dataset whose samples say what they are."""

    def __init__(self, part: dict, root: Path, *, chunk: int) -> None:
        rate = json.loads((root / "meta/info.json").read_text())["fps"]
        ahead = {"action": [step / rate for step in range(chunk)]}
        self.part, self.data = part, LeRobotDataset(root.name, root=root, delta_timestamps=ahead)
        self.stats = self.data.meta.stats

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> dict:
        sample = self.data[row]
        for name in NORMALISED:
            mean, std = (torch.as_tensor(self.stats[name][key], dtype=torch.float32) for key in ("mean", "std"))
            sample[name] = (sample[name] - mean) / std.clamp_min(1e-3)
        return {"embodiment": self.part["embodiment"], "kind": self.part["kind"], **sample}


def mixed(manifest: Path, *, batch: int, batches: int, chunk: int, seed: int) -> Iterator[list[dict]]:
    """Yield batches of samples. They stay lists, for embodiments have states and actions of different widths."""
    parts = json.loads(manifest.read_text())["datasets"]
    tagged = [Tagged(part, (manifest.parent / part["path"]).resolve(), chunk=chunk) for part in parts]
    weights = [part["share"] / len(data) for part, data in zip(parts, tagged, strict=True) for _ in range(len(data))]
    drawn = WeightedRandomSampler(weights, batch * batches, generator=torch.Generator().manual_seed(seed))
    yield from DataLoader(ConcatDataset(tagged), batch_size=batch, sampler=drawn, collate_fn=list)


def main() -> None:
    """Draw some batches and print how they were mixed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--chunk", type=int, default=16, help="actions ahead of each row")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    kinds: Counter[str] = Counter()
    shapes: dict[str, dict[str, list[int]]] = {}
    for samples in mixed(asked.manifest, batch=asked.batch, batches=asked.batches, chunk=asked.chunk, seed=asked.seed):
        for sample in samples:
            kinds[sample["kind"]] += 1
            shapes[sample["embodiment"]] = {
                name: list(value.shape)
                for name, value in sample.items()
                if name in NORMALISED or name.startswith("observation.images.")
            }
    print(json.dumps({"samples": dict(kinds), "shapes": shapes}))


if __name__ == "__main__":
    main()
