#!/usr/bin/env bash
# guidellm's load of synthetic videos, unchanged, against `longtake serve --demo`: one client, then four at once, and no request lost.
# Installs it into a folder of its own: 6 GB, since it wants a torch that can use GPUs.
# usage: tests/clients/guidellm.sh [FOLDER] [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/clients/server.sh
environment guidellm 'guidellm[vision]'
serve "$folder/guidellm.log" --no-store
model=$(curl -sf "$base/v1/models" | python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])')
# load PROFILE REQUESTS
load() {
  rm -f "$folder/guidellm.json"
  # It looks for no tokenizer: the server counts.
  HF_HUB_OFFLINE=1 "$folder/guidellm/bin/guidellm" run --disable-console \
    --backend "kind=openai_http,target=$base,model=$model,request_format=/v1/chat/completions" --profile "$1" \
    --constraint "kind=max_requests,count=$2" --data kind=synthetic_video,width=224,height=126,frames=8,fps=2,output_tokens=8 \
    --output "kind=json,path=$folder/guidellm.json"
  python3 - "$folder/guidellm.json" "$1" "$2" <<'EOF'
import json
import sys

path, profile, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path) as file:
    (benchmark,) = json.load(file)["benchmarks"]
requests = benchmark["requests"]
assert len(requests["successful"]) == n and not requests["errored"] and not requests["incomplete"], {k: len(v) for k, v in requests.items()}
for request in requests["successful"]:
    read, said = request["input_metrics"], request["output_metrics"]
    assert read["video_frames"] == 8 and read["text_tokens"] > 500 and said["text_tokens"] == 8, (read, said)
    assert 0 < request["time_to_first_token_ms"] <= 1000 * request["request_latency"], request
print(f"guidellm, {profile}: {n} good")
EOF
}
load kind=synchronous 6
load kind=concurrent,streams=4 16
