#!/usr/bin/env bash
# One Ray node in one container:
#   ray-node head                 the head; it runs nothing itself
#   ray-node worker N RESOURCES   a worker with N slots and the custom resources RESOURCES, a JSON object
#   ray-node dispatch ARG ...     a node without slots, and on it the dispatcher, `factory dispatch ARG ...`
#   ray-node health               0 while this node and its way to the head are alive
# RAY_HEAD says where the head is, as HOST:PORT; RAY_NODE_IP names this node's address where it cannot be found out.
set -euo pipefail
head=${RAY_HEAD:-ray-head:6379}
sockets=/tmp/ray/session_latest/sockets
# Trajectories travel through files; the object store carries only small answers.
common=(--disable-usage-stats --object-store-memory 134217728 --log-style record --block)

# A container may stand on several networks: the address that counts is the one that leads to the head.
address() {
  python3.11 -c 'import socket, sys
host, _, port = sys.argv[1].rpartition(":")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect((host, int(port)))
    print(probe.getsockname()[0])' "$head"
}

here() { echo "${RAY_NODE_IP:-$(address)}"; }

case ${1:-} in
  head)
    exec ray start --head --node-ip-address "$(here)" --port "${head##*:}" --num-cpus 0 --num-gpus 0 \
      --include-dashboard false "${common[@]}"
    ;;
  worker)
    exec ray start --address "$head" --node-ip-address "$(here)" --num-cpus "$2" --resources "$3" "${common[@]}"
    ;;
  dispatch)
    # A Ray driver needs a node on its own machine. When either ends, so does the container, and it is started anew.
    shift
    ray start --address "$head" --node-ip-address "$(here)" --num-cpus 0 --num-gpus 0 "${common[@]}" &
    node=$!
    until [ -S "$sockets/raylet" ]; do
      kill -0 "$node" || exit 1
      sleep 0.5
    done
    factory dispatch "$@" &
    dispatcher=$!
    trap 'kill -TERM "$dispatcher" 2>/dev/null || true; wait "$dispatcher"; exit' TERM INT
    wait -n "$node" "$dispatcher"
    ;;
  health)
    [ -S "$sockets/raylet" ]
    # A socket's file outlives its owner, so ask whether somebody listens.
    timeout 5 python3.11 -c 'import socket, sys
host, _, port = sys.argv[1].rpartition(":")
socket.create_connection((host, int(port)), timeout=3).close()
with socket.socket(socket.AF_UNIX) as raylet:
    raylet.connect(sys.argv[2])' "$head" "$sockets/raylet"
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
