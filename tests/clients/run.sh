#!/usr/bin/env bash
# Official clients, and the page in Chromium, against `longtake serve --demo`, unchanged. Installs them into a folder of their own (the first argument, or
# target/clients) and needs a network for that alone. The second argument is the program.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/clients/server.sh
draw "$folder/v.mp4" 2880
# A take that is there already would not be read.
rm -rf "$folder/data"
serve "$folder/log" --data "$folder/data"
base=$base/v1

environment venv openai
"$folder/venv/bin/python" tests/clients/openai_python.py "$base" "$folder/v.mp4" "$question" "$answer"
environment venv litellm langchain-openai
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" tests/clients/others_python.py "$base" "$folder/v.mp4" "$question" "$answer"
environment llm-venv llm
tests/clients/llm.sh "$folder/llm-venv/bin/llm" "$folder" "$base" "$folder/v.mp4" "$question" "$answer"
environment ray-venv 'ray[data]' aiohttp pydantic
"$folder/ray-venv/bin/python" tests/clients/ray_data.py "$base" "$folder/v.mp4" "$question" "$answer"
if command -v npm >/dev/null; then
  [ -d "$folder/node_modules/openai" ] || npm install --silent --no-audit --no-fund --prefix "$folder" openai
  cp tests/clients/openai_node.mjs "$folder/openai_node.mjs"
  node "$folder/openai_node.mjs" "$base" "$folder/v.mp4" "$question" "$answer"
  [ -d "$folder/node_modules/@ai-sdk" ] || npm install --silent --no-audit --no-fund --prefix "$folder" ai@7 @ai-sdk/openai-compatible@3
  cp tests/clients/ai_sdk.mjs "$folder/ai_sdk.mjs"
  node "$folder/ai_sdk.mjs" "$base" "$folder/v.mp4" "$question" "$answer"
  if chromium=$(command -v chromium || command -v google-chrome); then
    [ -d "$folder/node_modules/playwright-core" ] || npm install --silent --no-audit --no-fund --prefix "$folder" playwright-core
    cp tests/clients/page.mjs "$folder/page.mjs"
    node "$folder/page.mjs" "${base%/v1}" "$folder/v.mp4" "$question" "$answer" "$folder" "$chromium"
  else
    echo "skipped: the page, since no Chromium is installed"
  fi
else
  echo "skipped: npm is not installed"
fi
