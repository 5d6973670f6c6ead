#!/usr/bin/env bash
# Clients and proxies that give up in silence, before a reading of a minute or more: tests/clients/patience.py.
# usage: tests/clients/patience.sh [FOLDER] [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/clients/server.sh
environment venv openai
draw "$folder/long.mp4" 54720
# One thread, so that it takes its time; of a longer video not every frame is taken.
serve "$folder/patience.log" --data "$folder/patience" -t 1 -c 60000 --parallel 3
"$folder/venv/bin/python" tests/clients/patience.py "$base/v1" "$folder/long.mp4" "$question" "$answer"
