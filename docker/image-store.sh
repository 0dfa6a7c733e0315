# shellcheck shell=bash
# What build-images.sh and smoke-images.sh share; sourced by them in the root of the repository.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
store=(--storage-driver=vfs --root "${FACTORY_IMAGE_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/trajectory-factory/images}")

tag() { echo "trajectory-factory/$1:$version"; }

# The address of the Debian archive in this machine's own settings.
debian_mirror() {
  local code
  code=$(. /etc/os-release && echo "$VERSION_CODENAME")
  apt-get indextargets --format '$(REPO_URI)' "Codename: $code" "Created-By: Packages" | head -n 1
}

install_packages() {
  local program missing=()
  for program in "$@"; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing, and only root could install them with apt-get: ${missing[*]}" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
