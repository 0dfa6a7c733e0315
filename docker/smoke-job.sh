#!/usr/bin/env bash
# Asks a running service for two episodes of `lift`, waits, and downloads the dataset: smoke-job.sh URL KEY TAR.
set -euo pipefail
url=$1 key=$2 tar=$3

ask() { curl --fail-with-body --silent --show-error --header "Authorization: Bearer $key" "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]] or "")' "$1"; }

job=$(ask --header 'Content-Type: application/json' --header "Idempotency-Key: smoke-$$" \
  --data '{"task": "lift", "episodes": 2, "seed": 7}' "$url/v1/jobs" | field id)
echo "job $job"
for _ in $(seq 1 240); do
  status=$(ask "$url/v1/jobs/$job" | field status)
  case $status in
    succeeded) break ;;
    failed | cancelled | expired) ask "$url/v1/jobs/$job" >&2; exit 1 ;;
  esac
  sleep 2
done
[ "$status" = succeeded ] || { echo "still $status after eight minutes" >&2; exit 1; }
dataset=$(ask "$url/v1/jobs/$job" | field dataset_id)
ask --output "$tar" "$url/v1/datasets/$dataset.tar"
tar -tf "$tar" | grep -q 'meta/info.json'
echo "dataset $dataset: $(stat -c %s "$tar") bytes, $(tar -tf "$tar" | wc -l) members"
