#!/usr/bin/env bash
# V-NIAH and V-NIAH-D over the siblings: layouts, temporal scales, types of weights and cache. Prints the tables of
# docs/reproduction.md and writes the heat maps into docs/reproduction.
#
#   training/symbols/evaluate.sh [WORK_FOLDER]     train.sh's folder, which has the F32 files; without it Q8_0 only
#
# NEEDLES=20 of them stand at six depths of each length: 120 trials behind each number. What was tried is kept in
# target/reproduction: a run that was stopped goes on. LONGTAKE names another binary.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${1:-}
needles=${NEEDLES:-20}
lengths=32,128,256,1024 trained=32 # 1x, 4x, 8x and 32x
out=target/reproduction
[ -n "${LONGTAKE:-}" ] || cargo build --quiet --locked --release
longtake=${LONGTAKE:-target/release/longtake}
mkdir -p "$out" docs/reproduction

# NAME MODEL MMPROJ [FLAGS]: one row of a table.
row() {
  local name=$1 model=$2 mmproj=$3
  shift 3
  "$longtake" eval niah -m "$model" --mmproj "$mmproj" --n-needles "$needles" --lengths "$lengths" --trained "$trained" \
    -o "$out/$name" "$@" 2>"$out/$name.err" >"$out/$name.txt" || { cat "$out/$name.err" >&2; return 1; }
  printf '| %s |%s\n' "$name" "$(awk 'NR > 1 { printf " %s |", $2 }' "$out/$name.txt")"
}
table() {
  printf '\n### %s\n\n| units |%s mean |\n|---|---|---|---|---|---|\n' "$1" "$(printf ' %s |' ${lengths//,/ })"
}
keep() { cp "$out/$1/heatmap.png" "docs/reproduction/$1.png"; }

q8=training/symbols/models tower=assets/symbols/mmproj-symbols.gguf
table "Layouts"
for layout in rope tad mrope videorope hope; do
  row "$layout" "$q8/symbols-$layout-Q8_0.gguf" "$tower"
  keep "$layout"
done
table "Layouts, V-NIAH-D"
for layout in rope tad mrope videorope hope; do
  row "$layout-distractors" "$q8/symbols-$layout-Q8_0.gguf" "$tower" --distractors
done
# The siblings never saw two symbols, nor questions that tell them apart; the embedded model did.
table "The embedded model"
row "embedded" assets/symbols/symbols.gguf "$tower"
row "embedded-distractors" assets/symbols/symbols.gguf "$tower" --distractors
table "HoPE's temporal scale; trained with 0.5 to 1.5"
for scale in 0.5 0.75 1 1.25 1.5; do
  row "hope-scale-$scale" "$q8/symbols-hope-Q8_0.gguf" "$tower" --temporal-scale "$scale"
  keep "hope-scale-$scale"
done
table "HoPE's frequencies alone (HFA), trained with scale 1"
for scale in 0.75 1 1.5; do
  row "hope-fixed-scale-$scale" "$q8/symbols-hope-fixed-Q8_0.gguf" "$tower" --temporal-scale "$scale"
done
table "Types of the cache (keys and values), Q8_0 weights"
for layout in mrope hope; do
  for cache in f16 q8_0 q4_0; do
    row "$layout-cache-$cache" "$q8/symbols-$layout-Q8_0.gguf" "$tower" --cache-type-k "$cache" --cache-type-v "$cache"
  done
done
if [ -n "$work" ]; then
  table "Types of the weights"
  for layout in rope mrope videorope hope; do
    "$longtake" quantize "$work/$layout.gguf" "$out/$layout-Q4_K_M.gguf" Q4_K_M 2>/dev/null >&2
    row "$layout-f32" "$work/$layout.gguf" "$work/mmproj-$layout.gguf"
    row "$layout-Q8_0" "$q8/symbols-$layout-Q8_0.gguf" "$work/mmproj-$layout.gguf"
    row "$layout-Q4_K_M" "$out/$layout-Q4_K_M.gguf" "$work/mmproj-$layout.gguf"
  done
fi
lengths=8,32,64,128 trained=8 needles=5
table "144 tokens a unit (448x252), 30 trials behind each number"
for layout in rope tad mrope videorope hope; do
  row "$layout-448x252" "$q8/symbols-$layout-Q8_0.gguf" "$tower" --frame 448x252
done
