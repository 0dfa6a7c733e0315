#!/usr/bin/env bash
# Puts lerobot 0.4.4 into a virtual environment of its own: $1 is that environment.
# --no-deps, because its own requirements would pull a CUDA build of torch and an older numpy; the list below is what
# reading datasets needs, jsonlines what its converter from v2.1 needs. torch 2.13.0 is the CPU build on machines
# without a GPU; torchcodec 0.13.0 is linked for CPU.
set -euo pipefail
pip="$1/bin/pip"
"$pip" install --quiet --upgrade pip
"$pip" install --quiet 'torch==2.13.0'
"$pip" install --quiet --no-deps 'lerobot==0.4.4' 'torchvision==0.28.0' 'torchcodec==0.13.0'
"$pip" install --quiet 'datasets<5' 'av' 'pandas<3' 'accelerate' 'draccus==0.10.0' 'pillow' 'jsonlines'
