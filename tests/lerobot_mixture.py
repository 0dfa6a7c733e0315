"""Runs the co-training example in lerobot's environment; argv[1] is a JSON file with the "manifest"."""

from __future__ import annotations

import json
import runpy
import sys
import types
from pathlib import Path

# See lerobot_judge.py: torchvision's wheel dies without CUDA operators, which decoding does not need.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

manifest = json.loads(Path(sys.argv[1]).read_text())["manifest"]
sys.argv = ["cotrain_mixture.py", manifest, "--batch", "16", "--batches", "10"]
runpy.run_path(str(Path(__file__).parents[1] / "examples" / "cotrain_mixture.py"), run_name="__main__")
