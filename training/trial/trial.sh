#!/usr/bin/env bash
# The trial of layouts: every variant, base and seed trained with the same budget on the same videos, and asked the same questions.
#
#   training/trial/trial.sh TOWER.pt [WORK_FOLDER]   some 70 minutes on two CPU cores; what is done in the folder is not done again
#
# TOWER.pt is the embedded model's tower: training/symbols/from_gguf.py makes it of assets/symbols, train.sh of nothing. PYTHON names a
# Python with training/symbols/requirements.txt, SEEDS the trainings of each variant (1 2 3). Prints the tables of docs/reproduction.md.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '4p' "$0"; exit 2; }
tower=$(realpath "$1")
work=$(realpath -m "${2:-$(dirname "$0")/../../target/trial}")
cd "$(dirname "$0")"
export python=${PYTHON:-python3} tower work
mkdir -p "$work"

train() { # VARIANT BASE SEED
  local name=$1-$2-$3
  [ -f "$work/$name.json" ] || "$python" trial.py "$tower" "$work/$name.pt" --variant "$1" --base "$2" --seed "$3" >"$work/$name.log"
}
export -f train
# What is done counts only for what it was done with.
with=$(cat "$tower" task.py trial.py ../symbols/{frames,language,network,words}.py ../random_checkpoint.py | sha256sum)
[ "$(cat "$work/made-with" 2>/dev/null || echo "$with")" = "$with" ] || { echo "$work is of another tower or other scripts: name another folder"; exit 1; }
echo "$with" >"$work/made-with"
"$python" -c 'import sys, task; task.pools(*sys.argv[1:])' "$tower" "$work/pools.pt" # what all of them share, made once
for seed in ${SEEDS:-1 2 3}; do
  for base in 1e4 1e6; do
    for variant in $("$python" -c 'import task; print(*task.VARIANTS)'); do echo "train $variant $base $seed"; done
  done
done | xargs -P 2 -L 1 bash -euo pipefail -c '"$@"' _
"$python" tables.py "$work"/*.json
