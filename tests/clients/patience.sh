#!/usr/bin/env bash
# Clients and proxies that give up in silence, before a reading of a minute or more: tests/clients/patience.py.
# usage: tests/clients/patience.sh [FOLDER] [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/clients}
program=${2:-target/release/longtake}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openai
told=$("$program" demo --tokens 54720 --seed 3 -o "$folder/long.mp4" --json 2>/dev/null)
field() { printf '%s' "$told" | python3 -c "import json,sys; print(json.load(sys.stdin)['$1'])"; }

. tests/clients/server.sh
# One thread, so that it takes its time; of a longer video not every frame is taken.
serve "$folder/patience.log" --data "$folder/patience" -t 1 -c 60000 --parallel 3
"$folder/venv/bin/python" tests/clients/patience.py "$base/v1" "$folder/long.mp4" "$(field question)" "$(field expected)"
