#!/usr/bin/env bash
# Starts the command of every service once, from its built image and in the order of docker-compose.yml, until /healthz
# answers and a job of two episodes has ended and come down as a tar. For machines without a Docker engine (root, and the
# images of docker/build-images.sh); with one, `docker compose up` and docker/smoke-job.sh say more.
# What this does not show: networks, limits, read-only file systems and health checks as an engine runs them. The
# containers share this machine's loopback, where each Ray node has an address of its own, and PostgreSQL is Debian's.
#   docker/smoke-images.sh [LAST]      LAST: stop after this service (init, postgres, migrate, first-key, ray-head,
#                                      ray-worker-sim, dispatcher, api, job)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=docker/image-store.sh
. docker/image-store.sh
last=${1:-job}
state=$(mktemp -d)
chmod 0755 "$state"
containers=()
processes=()
postgres_bin=

container() { # NAME IMAGE: a container of its own for a service
  buildah "${store[@]}" from --quiet --pull-never --name "smoke-$1-$$" "localhost/$(tag "$2")" >/dev/null
  containers+=("smoke-$1-$$")
}

inside() { # NAME COMMAND...: run it there, with the volumes and the environment of docker-compose.yml
  local name=$1 volume variable options=()
  shift
  for volume in data:/data database-secret:/secrets/database ray-secret:/secrets/ray api-key:/secrets/api-key; do
    options+=(--volume "$state/$volume")
  done
  for variable in "${environment[@]}"; do options+=(--env "$variable"); done
  case $name in
    ray-head) options+=(--env RAY_NODE_IP=127.0.0.2) ;;
    ray-worker-sim) options+=(--env RAY_NODE_IP=127.0.0.3) ;;
    dispatcher) options+=(--env RAY_NODE_IP=127.0.0.4) ;;
  esac
  buildah "${store[@]}" run --isolation chroot "${options[@]}" "smoke-$name-$$" -- "$@"
}

start() { # NAME COMMAND...: the same, for a service that stays
  local name=$1
  inside "$@" >"$state/$name.log" 2>&1 &
  processes+=("$!")
}

await() { # NAME SECONDS COMMAND...: until the command succeeds
  local name=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "$name: not ready; the end of its log:" >&2
      tail -n 40 "$state/$name.log" >&2
      exit 1
    fi
    sleep 1
  done
}

said() {
  echo "ok  $1"
  if [ "$1" = "$last" ]; then exit 0; fi
}

tidy() {
  local code=$? name pid logs
  trap - EXIT INT TERM
  set +e
  for pid in "${processes[@]}"; do kill "$pid" 2>/dev/null; done
  # Whatever a container left running bears this run's mark in its environment.
  for pid in /proc/[0-9]*; do
    if { tr '\0' '\n' <"$pid/environ" | grep --quiet --line-regexp "FACTORY_SMOKE=$state"; } 2>/dev/null; then
      kill -KILL "${pid#/proc/}" 2>/dev/null
    fi
  done
  [ -z "$postgres_bin" ] || su postgres -c "$postgres_bin/pg_ctl --pgdata $state/postgres --mode immediate --silent stop"
  sleep 1
  for name in "${containers[@]}"; do buildah "${store[@]}" rm "$name" >/dev/null; done
  if [ $code -ne 0 ]; then
    logs=$(mktemp -d)
    cp "$state"/*.log "$logs" && echo "logs: $logs" >&2
  fi
  rm -rf "$state"
  exit "$code"
}
trap tidy EXIT
trap 'exit 130' INT TERM

environment=(
  FACTORY_SMOKE="$state"
  FACTORY_DATABASE_URL=postgresql://factory@127.0.0.1:25432/factory
  FACTORY_DATABASE_PASSWORD_FILE=/secrets/database/password
  FACTORY_DATA=/data FACTORY_HOST=127.0.0.1 FACTORY_PORT=28000
  RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/secrets/ray/token RAY_USAGE_STATS_ENABLED=0 RAY_HEAD=127.0.0.2:26379
  RAY_gcs_rpc_server_reconnect_timeout_s=15
)
install -d -o 10001 -g 10001 "$state"/{data,database-secret,ray-secret,api-key}

container once api
inside once init-secrets
secrets=("$state"/database-secret/password "$state"/ray-secret/token "$state"/api-key/first)
first=$(sha256sum "${secrets[@]}")
inside once init-secrets
[ "$first" = "$(sha256sum "${secrets[@]}")" ] # twice is as good as once
said init

if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then install_packages postgresql; fi
postgres_bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | tail -n 1)")
install -d -o postgres -m 0700 "$state/postgres"
install -o postgres -m 0400 "$state/database-secret/password" "$state/postgres.password"
su postgres -c "$postgres_bin/initdb --pgdata $state/postgres --username factory --auth scram-sha-256 \
  --pwfile $state/postgres.password --data-checksums" >"$state/postgres.log"
su postgres -c "$postgres_bin/pg_ctl --pgdata $state/postgres --log $state/postgres/log --silent --wait start \
  --options '-h 127.0.0.1 -p 25432 -k $state/postgres'"
PGPASSWORD=$(cat "$state/database-secret/password") "$postgres_bin/createdb" --host 127.0.0.1 --port 25432 \
  --username factory factory
said postgres

inside once factory migrate
said migrate
inside once factory keys create --name first --scopes read,write,admin --secret-file /secrets/api-key/first
inside once factory keys create --name first --scopes read,write,admin --secret-file /secrets/api-key/first
said first-key

container ray-head dispatcher
start ray-head ray-node head
await ray-head 90 inside ray-head timeout 15 ray health-check --address 127.0.0.2:26379
said ray-head
container ray-worker-sim sim
start ray-worker-sim ray-node worker 2 '{"sim": 2}'
await ray-worker-sim 90 inside ray-worker-sim ray-node health
said ray-worker-sim
container dispatcher dispatcher
start dispatcher ray-node dispatch --executor ray --ray-address 127.0.0.2:26379
await dispatcher 90 inside dispatcher ray-node health
said dispatcher
container api api
start api factory serve --executor none
await api 60 python3 -c 'import urllib.request as web; web.urlopen("http://127.0.0.1:28000/healthz", timeout=4)'
said api

docker/smoke-job.sh http://127.0.0.1:28000 "$(cat "$state/api-key/first")" "$state/episodes.tar"
said job
