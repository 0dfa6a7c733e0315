#!/usr/bin/env bash
# Builds every image of docker-compose.yml for real: with Docker where an engine answers, else with buildah, which needs
# none. As root, and where they are missing, it installs buildah and debootstrap (Debian, Ubuntu).
#   docker/build-images.sh [api] [dispatcher] [sim] [dream]
# FACTORY_BASE_IMAGE             the base image; default: what the Dockerfiles name
# FACTORY_BASE_FROM_DEBOOTSTRAP  1: make the base from Debian packages; so it also happens when no registry answers
# FACTORY_IMAGE_STORE            where buildah keeps images; default: ~/.cache/trajectory-factory/images
# BUILD_VOLUMES                  FROM:TO[:ro] ..., mounted during the build, such as a pip.conf or a certificate folder
# BUILD_PIP_CERT                 a certificate bundle as pip sees it in the build
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=docker/image-store.sh
. docker/image-store.sh
images=("$@")
[ ${#images[@]} -gt 0 ] || images=(api dispatcher sim dream)
arguments=()
[ -z "${BUILD_PIP_CERT:-}" ] || arguments+=(--build-arg "PIP_CERT=$BUILD_PIP_CERT")

if docker info >/dev/null 2>&1; then
  [ -z "${FACTORY_BASE_IMAGE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$FACTORY_BASE_IMAGE")
  for image in "${images[@]}"; do
    docker build "${arguments[@]}" --tag "$(tag "$image")" --file "docker/$image.Dockerfile" .
  done
  exit
fi

install_packages buildah
base=${FACTORY_BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' docker/api.Dockerfile)}
made=localhost/trajectory-factory-base:bookworm
if [ "${FACTORY_BASE_FROM_DEBOOTSTRAP:-}" != 1 ] && ! timeout 120 buildah "${store[@]}" pull --quiet "$base"; then
  echo "$base cannot be pulled; making a base image from Debian packages" >&2
  FACTORY_BASE_FROM_DEBOOTSTRAP=1
fi
if [ "${FACTORY_BASE_FROM_DEBOOTSTRAP:-}" = 1 ]; then
  base=$made
  if ! buildah "${store[@]}" inspect --type image "$made" >/dev/null 2>&1; then
    install_packages debootstrap
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    # The mirror this machine itself uses; none is named here.
    debootstrap --variant=minbase bookworm "$root" "$(debian_mirror)" >"$root.log" || { tail "$root.log"; exit 1; }
    container=$(buildah "${store[@]}" from scratch)
    buildah "${store[@]}" add --quiet "$container" "$root" / >/dev/null
    buildah "${store[@]}" commit --quiet --rm "$container" "$made" >/dev/null
  fi
fi

for volume in ${BUILD_VOLUMES:-}; do
  arguments+=(--volume "$volume")
done
for image in "${images[@]}"; do
  started=$SECONDS
  nice buildah "${store[@]}" bud --isolation chroot --pull-never --build-arg "BASE_IMAGE=$base" "${arguments[@]}" \
    --tag "$(tag "$image")" --file "docker/$image.Dockerfile" .
  size=$(buildah "${store[@]}" images --format '{{.Size}}' "$(tag "$image")")
  echo "$(tag "$image"): $size, built in $((SECONDS - started)) s"
done
