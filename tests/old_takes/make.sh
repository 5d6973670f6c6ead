#!/usr/bin/env bash
# Makes the take of the first version, and what it was asked: `make.sh OLD`, where OLD is a program of a commit before 8aebdc8,
# which write that version (`git worktree add OLD_SOURCE 4951c3d^ && cargo build --release` there). Every program since must
# answer from it with the same tokens (tests/it/old_take.rs). symbols.gguf is what was embedded then.
set -euo pipefail
old=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../assets/symbols"
rm -f "$here/version1.take"
LONGTAKE_KERNELS=scalar "$old" watch symbols.mp4 -m "$here/symbols.gguf" --mmproj mmproj-symbols.gguf \
  -o "$here/version1.take" -c 512 --reserve 128 -ctk q8_0 -ctv f16
LONGTAKE_KERNELS=scalar "$old" ask "$here/version1.take" -m "$here/symbols.gguf" --json -n 6 --ignore-eos \
  "What shape is shown?" "What color is shown?" "What is shown?" |
  python3 -c 'import json, sys
for line in sys.stdin:
    answer = json.loads(line)
    print(json.dumps({key: answer[key] for key in ["text", "tokens"]}))' > "$here/version1.jsonl"
