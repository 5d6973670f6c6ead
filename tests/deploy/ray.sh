#!/usr/bin/env bash
# deploy/ray/batch.py on a Ray of two worker processes, one of which is killed midway. Installs Ray into a folder of its own.
# usage: tests/deploy/ray.sh [FOLDER] [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/deploy}
program=$(realpath "${2:-target/release/longtake}")
mkdir -p "$folder"
[ -x "$folder/ray/bin/python" ] || python3 -m venv "$folder/ray"
"$folder/ray/bin/pip" install -q ray
"$folder/ray/bin/python" tests/deploy/ray_job.py "$folder/job" "$program"
