#!/usr/bin/env bash
# Brings Docker Compose v2 to a machine without a Docker engine, for `config` alone, which needs none: writes the program
# to $1 (default .venv/bin/docker-compose). Does nothing where `docker compose` answers. Debian trixie's package, fetched
# by apt from the archive this machine uses; nothing is installed. Elsewhere it says so and succeeds: tests then skip.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-.venv/bin/docker-compose}
if [ -x "$target" ] || docker compose version >/dev/null 2>&1; then exit 0; fi
# shellcheck source=docker/image-store.sh
. docker/image-store.sh
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if ! command -v apt-get >/dev/null || ! [ -e "$keyring" ]; then
  echo "no Docker Compose, and no Debian archive to take it from; tests of docker-compose.yml will skip a part" >&2
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 0755 "$folder"
mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
echo "deb [signed-by=$keyring] $(debian_mirror) trixie main" >"$folder/sources.list"
options=(-qq -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root)
if (cd "$folder" && apt-get "${options[@]}" update && apt-get "${options[@]}" download docker-compose); then
  dpkg-deb --fsys-tarfile "$folder"/docker-compose_*.deb \
    | tar -x -O ./usr/libexec/docker/cli-plugins/docker-compose >"$folder/docker-compose"
  install -m 0755 -D "$folder/docker-compose" "$target"
  "$target" version
else
  echo "Docker Compose could not be fetched; tests of docker-compose.yml will skip a part" >&2
fi
