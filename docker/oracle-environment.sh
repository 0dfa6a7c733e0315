#!/usr/bin/env bash
# Puts Isaac Lab 3.0.0 into a virtual environment of its own, for tests/test_oracle.py alone: $1 is that environment.
# Python 3.12 (PYTHON312 names it where it is not python3.12); no GPU and no Isaac Sim; about 5 GB, most of it torch,
# whose usual Linux build brings CUDA. --no-deps for Isaac Lab, whose own requirements would be as much again: the list
# below is what its Mimic package imports.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON312:-python3.12}
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
  echo "$python is no Python 3.12, which Isaac Lab 3.0.0 needs; name one with PYTHON312=/path/to/python3.12" >&2
  exit 1
fi
"$python" -m venv "$1"
pip="$1/bin/pip"
"$pip" install --quiet --upgrade pip
"$pip" install --quiet 'torch==2.11.0' 'warp-lang==1.17.0' gymnasium toml prettytable hidapi lazy_loader rich pyyaml \
  usd-core
"$pip" install --quiet --no-deps 'isaaclab==3.0.0'
# What this project's core and its tests import; NumPy 2 comes with the rest, the core does not mind.
"$pip" install --quiet h5py pyarrow av jaxtyping beartype 'pytest>=8.3' hypothesis sqlmodel alembic typer jinja2
