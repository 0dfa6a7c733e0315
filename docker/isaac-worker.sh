#!/usr/bin/env bash
# The worker of the isaac-worker image:
#   isaac-worker              test this machine, print and keep the report, then take work from FACTORY_SERVER
#   isaac-worker self-test    the test alone
#   isaac-worker key          keep the API key given on standard input, for the worker to read
#   isaac-worker health       0 while the worker runs
# ACCEPT_EULA=Y says that you accept NVIDIA's licence for Isaac Sim; without it nothing of Isaac Sim is started.
set -euo pipefail
key=/secrets/isaac/key
report=/data/self-test.json
python=${ISAAC_PYTHON:-/isaac-sim/python.sh}

accepted() {
  [ "${ACCEPT_EULA:-}" = Y ] && return
  echo "Isaac Sim is NVIDIA's, under NVIDIA's licence; you find it where NVIDIA publishes the image. If you accept it, set" >&2
  echo "FACTORY_ISAAC_ACCEPT_EULA=Y in .env (ACCEPT_EULA=Y without compose) and start again." >&2
  exit 3
}

case ${1:-} in
  '')
    accepted
    [ -s "$key" ] || { echo "no API key in $key; docs/isaac.md says how to put one there" >&2; exit 2; }
    # A machine on which a step fails may still be good for tasks that do not need it: the report says so, and it works on.
    "$python" -m workers isaac self-test --report "$report" || echo "the self-test failed in part; see $report" >&2
    echo "$$" >/tmp/isaac-worker.pid
    exec "$python" -m workers worker --server "${FACTORY_SERVER:?the URL of the service}" --key-file "$key" \
      --capability isaac --slots 1
    ;;
  self-test)
    accepted
    exec "$python" -m workers isaac self-test --report "$report" "${@:2}"
    ;;
  key)
    (umask 0077 && cat >"$key.$$" && mv "$key.$$" "$key")
    ;;
  health)
    kill -0 "$(cat /tmp/isaac-worker.pid)"
    ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
