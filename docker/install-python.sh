#!/bin/sh
# The ground every image stands on: Python 3.11, the user, and the folders that become volumes. The pinned public image
# brings Python in /usr/local; a plain Debian bookworm brings it as a package. The arguments are further Debian packages.
set -eu
command -v python3.11 >/dev/null || set -- python3.11 python3.11-venv "$@"
if [ $# -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  rm -rf /var/lib/apt/lists/*
fi
# One number in every image, because they share volumes. Volumes take owner and mode from these folders.
if ! id factory >/dev/null 2>&1; then
  groupadd --gid 10001 factory
  useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin factory
  install -d -o factory -g factory -m 0750 /data /secrets /secrets/database /secrets/ray /secrets/api-key
fi
