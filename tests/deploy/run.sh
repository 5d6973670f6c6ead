#!/usr/bin/env bash
# What stands in deploy/, as far as one machine can tell: the manifests against the schemas of Kubernetes, and the Slurm script as an
# array of three tasks, one of which is killed and started again. Every request is answered once.
# usage: tests/deploy/run.sh [FOLDER] [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/deploy}
program=$(realpath "${2:-target/release/longtake}")
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

[ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kubernetes-validate
"$folder/venv/bin/kubernetes-validate" --strict deploy/kubernetes/longtake.yaml

rm -rf "$folder/out" "$folder/bin"
mkdir -p "$folder/bin"
ln -s "$program" "$folder/bin/longtake"
for i in $(seq 60); do
  printf '{"custom_id":"r%d","method":"POST","url":"/v1/completions","body":{"prompt":"Say %d","max_tokens":40,"ignore_eos":true}}\n' "$i" "$i"
done >"$folder/requests.jsonl"
task() {
  PATH=$folder/bin:$PATH SLURM_ARRAY_TASK_ID=$1 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=3 SLURM_CPUS_ON_NODE=1 \
    deploy/slurm/batch.sbatch assets/symbols/symbols.gguf "$folder/requests.jsonl" "$folder/out" --quiet
}
task 1 &
task 2 &
task 3 &
killed=$!
for _ in $(seq 200); do
  [ -s "$folder/out/00002.jsonl" ] && break
  sleep 0.05
done
pkill -KILL -P "$killed" || echo "note: the third task was over before it could be killed"
wait || true
for i in 1 2 3; do task $i; done
cat "$folder"/out/*.jsonl | python3 -c '
import json, sys
ids = [json.loads(line)["custom_id"] for line in sys.stdin]
assert sorted(ids) == sorted(f"r{i}" for i in range(1, 61)), ids
print("slurm: 60 requests in 3 shards, each answered once")'

# One that the queue signals stops by itself and is given back.
printf '#!/bin/sh\necho "$@" >>"%s/requeued"\n' "$folder" >"$folder/bin/scontrol"
chmod +x "$folder/bin/scontrol"
rm -rf "$folder/out" "$folder/requeued"
# `exec`: the signal is for the script, not for a shell around it.
(export PATH=$folder/bin:$PATH SLURM_JOB_ID=7 SLURM_CPUS_ON_NODE=1
  exec deploy/slurm/batch.sbatch assets/symbols/symbols.gguf "$folder/requests.jsonl" "$folder/out" --quiet) &
signalled=$!
for _ in $(seq 200); do
  [ -s "$folder/out/00000.jsonl" ] && break
  sleep 0.05
done
kill -TERM "$signalled"
status=0
wait "$signalled" || status=$?
[ "$status" = 130 ] && [ "$(cat "$folder/requeued")" = "requeue 7" ] || { echo "a signalled task ended with $status, and was not given back"; exit 1; }
echo "slurm: a signalled task is given back"
