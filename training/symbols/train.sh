#!/usr/bin/env bash
# Makes the embedded model and its siblings from nothing: drawn videos, one vision tower, one language model for each layout.
#
#   training/symbols/train.sh [WORK_FOLDER]      about three hours on two CPU cores; steps that are done are not done again
#
# Needs Python 3.11 with requirements.txt (PYTHON names it) and cargo. Writes assets/symbols (the embedded model) and
# training/symbols/models (the siblings).
set -euo pipefail
cd "$(dirname "$0")"
work=$(realpath -m "${1:-../../target/symbols}")
python=${PYTHON:-python3}
root=$(realpath ../..)
mkdir -p "$work" models

step() { echo "== $*"; }

if [ ! -f "$work/tower.pt" ]; then
  step "vision tower"
  "$python" vision.py "$work/first.pt" --steps 900 --rate 1e-3 --threads 2 | tee "$work/first.log"
  "$python" vision.py "$work/tower.part.pt" --start "$work/first.pt" --steps 1440 --rate 1.5e-3 --seed 2 --threads 2 | tee "$work/tower.log"
  mv "$work/tower.part.pt" "$work/tower.pt"
fi

# NAME LAYOUT [FLAGS]: the budget is the same for all.
train() {
  if [ -f "$work/$1.pt" ]; then return; fi
  step "language model: $1"
  "$python" language.py "$work/tower.pt" "$work/$1.part.pt" --layout "$2" --steps 2000 "${@:3}" | tee "$work/$1.log"
  mv "$work/$1.part.pt" "$work/$1.pt"
}
train hope hope &
train mrope mrope
wait
train videorope videorope &
train rope rope
wait
# HoPE's frequencies without its temporal scales: the ablation "HFA".
train hope-fixed hope --scales 1

# The embedded model learns on, from fresh frames.
train embedded hope --start "$work/hope.pt" --steps 1200 --seed 3 --rate 1.5e-3

step "files"
cargo build --release --manifest-path "$root/Cargo.toml"
longtake="$root/target/release/longtake"
for name in hope mrope videorope rope hope-fixed; do
  "$python" export.py "$work/tower.pt" "$work/$name.pt" "$work/symbols-$name"
  "$longtake" convert "$work/symbols-$name" -o "$work/$name.gguf" --outtype f32 --mmproj-outtype f32 --rope "${name%-fixed}"
  "$longtake" quantize "$work/$name.gguf" "models/symbols-$name-Q8_0.gguf" Q8_0
done
"$python" export.py "$work/tower.pt" "$work/embedded.pt" "$work/symbols-embedded"
"$longtake" convert "$work/symbols-embedded" -o "$work/embedded.gguf" --outtype q8_0 --mmproj-outtype q8_0 --rope hope
cp "$work/embedded.gguf" "$root/assets/symbols/symbols.gguf"
cp "$work/mmproj-embedded.gguf" "$root/assets/symbols/mmproj-symbols.gguf"
ls -l "$root/assets/symbols" models
