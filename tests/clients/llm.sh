#!/usr/bin/env bash
# The `llm` command, unchanged, against `longtake serve --demo`: LLM FOLDER BASE_URL VIDEO QUESTION ANSWER.
set -euo pipefail
llm=$1 folder=$2 base=$3 video=$4 question=$5 answer=$6
export LLM_USER_PATH=$folder/llm
rm -rf "$LLM_USER_PATH"
mkdir -p "$LLM_USER_PATH"
model=$(curl -sf "$base/models" | python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])')
# As its documentation has it for models that speak OpenAI's API.
cat >"$LLM_USER_PATH/extra-openai-models.yaml" <<EOF
- model_id: longtake
  model_name: $model
  api_base: "$base"
  vision: true
  supports_schema: true
EOF
# same WHAT SAID
same() { [ "$2" = "$answer" ] || { echo "llm, $1: \`$2\` instead of \`$answer\`"; exit 1; }; }
ask() { "$llm" --key none "$@"; }
# It sends pictures alone. What a file is, the server sees in its bytes, so a video passes under a picture's type.
same streamed "$(ask -m longtake "$question" --at "$video" image/png)"
same whole "$(ask -m longtake --no-stream "$question" --at "$video" image/png)"
same "in a conversation that goes on" "$(ask --continue "$question")"
schema='{"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"], "additionalProperties": false}'
formed=$(ask -m longtake "$question" --schema "$schema" --at "$video" image/png)
printf '%s' "$formed" | python3 -c 'import json, sys; assert json.load(sys.stdin)["color"] in ["red", "blue"]'
echo "llm: good"
