#!/usr/bin/env bash
# Installs what only tests need: a browser for the dashboard, and its fonts. Where that is not possible it says so and
# succeeds; the tests that need it are then skipped with a reason.
set -euo pipefail

command -v chromium >/dev/null && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null \
    || echo "chromium could not be installed; browser tests will be skipped" >&2
else
  echo "no chromium, and no right to install it; browser tests will be skipped" >&2
fi
