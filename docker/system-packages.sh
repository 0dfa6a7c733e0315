#!/usr/bin/env bash
# Installs what Python packages cannot bring: a headless OpenGL, a compiler and kernel headers for evdev (a dependency
# of robosuite that ships no wheel), and libGL for OpenCV. Debian and Ubuntu; says what is missing elsewhere.
set -euo pipefail

missing=()
ldconfig -p | grep -q 'libEGL.so.1' || missing+=(libegl1 libgl1-mesa-dri)
ldconfig -p | grep -q 'libGL.so.1' || missing+=(libgl1)
ldconfig -p | grep -q 'libgthread-2.0.so.0' || missing+=(libglib2.0-0)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
[ -e /usr/include/linux/input.h ] || missing+=(linux-libc-dev)
python3.11 -c 'import sysconfig, pathlib; assert pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists()' 2>/dev/null \
  || missing+=(python3.11-dev)
python3.11 -c 'import ensurepip' 2>/dev/null || missing+=(python3.11-venv)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null && command -v apt-get >/dev/null; then
  sudo apt-get update -qq
  sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "missing system packages; please install: ${missing[*]}" >&2
  exit 1
fi
