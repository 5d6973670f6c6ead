#!/usr/bin/env bash
# Makes the embedded model and its siblings from nothing: drawn videos, one vision tower, one language model for each layout.
#
#   training/symbols/train.sh [WORK_FOLDER]      two to three hours on two CPU cores; what is done in the folder is not done again
#
# Needs Python 3.11 with requirements.txt (PYTHON names it), and cargo or a built binary (LONGTAKE names it). Writes
# assets/symbols (the embedded model) and training/symbols/models (the siblings, the curves). VISION_STEPS="48 48" STEPS=50
# tries the whole in minutes; its models know nothing.
set -euo pipefail
cd "$(dirname "$0")"
root=$(realpath ../..)
work=$(realpath -m "${1:-$root/target/symbols}")
python=${PYTHON:-python3}
read -r vision_1 vision_2 <<<"${VISION_STEPS:-900 1440}"
steps=${STEPS:-800}
mkdir -p "$work" models

step() { echo "== $*"; }

if [ ! -f "$work/tower.pt" ]; then
  step "vision tower"
  "$python" vision.py "$work/first.pt" --steps "$vision_1" --rate 1e-3 >"$work/first.log"
  "$python" vision.py "$work/tower.part.pt" --start "$work/first.pt" --steps "$vision_2" --rate 1.5e-3 --seed 2 >"$work/tower.log"
  mv "$work/tower.part.pt" "$work/tower.pt"
fi

# NAME LAYOUT [FLAGS]: the siblings find one symbol and have the same budget for every layout; later flags win.
train() {
  if [ -f "$work/$1.pt" ]; then return; fi
  step "language model: $1"
  "$python" language.py "$work/tower.pt" "$work/$1.part.pt" --layout "$2" --steps "$steps" --most-needles 1 "${@:3}" >"$work/$1.log"
  mv "$work/$1.part.pt" "$work/$1.pt"
}
export -f step train
export work python steps

train hope hope # alone: it leaves beside the tower what all others learn from
# Two at a time with one thread each; the failure of one is a failure. The embedded model learns with up to three symbols, first
# in short videos (`short`); hope-fixed has HoPE's frequencies without its temporal scales: the ablation "HFA".
xargs -P 2 -L 1 bash -euo pipefail -c '"$@"' _ <<JOBS
train short hope --steps ${STEPS:-2000} --most-needles 3
train mrope mrope
train videorope videorope
train rope rope
train tad tad
train hope-fixed hope --scales 1
JOBS
# Then in long ones: up to 384 frame pairs that stand for up to 1024 more, backgrounds that count up to 16 times, twelve times as
# many of them to draw from, and those again that a wrong answer hung on.
train embedded hope --start "$work/short.pt" --steps "${STEPS:-1800}" --most-needles 3 --rate 1e-3 --pairs 384 --least 8 \
  --gaps 1024 --counts 16 --pool 12 --hard 0.25 --single 0.4 --alone 0.75

step "files"
[ -n "${LONGTAKE:-}" ] || cargo build --locked --release --manifest-path "$root/Cargo.toml"
longtake=${LONGTAKE:-$root/target/release/longtake}
for name in hope mrope videorope rope tad hope-fixed; do
  "$python" export.py "$work/tower.pt" "$work/$name.pt" "$work/symbols-$name"
  "$longtake" convert "$work/symbols-$name" -o "$work/$name.gguf" --outtype f32 --mmproj-outtype f32 --rope "${name%-fixed}"
  "$longtake" quantize "$work/$name.gguf" "models/symbols-$name-Q8_0.gguf" Q8_0
done
"$python" export.py "$work/tower.pt" "$work/embedded.pt" "$work/symbols-embedded"
"$longtake" convert "$work/symbols-embedded" -o "$work/embedded.gguf" --outtype q8_0 --mmproj-outtype q8_0 --rope hope
cp "$work/embedded.gguf" "$root/assets/symbols/symbols.gguf"
cp "$work/mmproj-embedded.gguf" "$root/assets/symbols/mmproj-symbols.gguf"
"$python" curves.py models/curves.svg "$work"/{hope,mrope,videorope,rope,tad,hope-fixed}.pt
"$python" accuracy.py "$work/tower.pt" "$work/embedded.pt"
ls -l "$root/assets/symbols" models
