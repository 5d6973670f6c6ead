#!/usr/bin/env bash
# What no machine without a GPU can check: every kernel against the scalar table, the goldens, takes and answers end to end,
# speed, and compute-sanitizer where it is installed. For a bare machine with a GPU and a driver.
#
#   tests/gpu/run.sh pack DIR     here: builds (release, feature cuda) and copies all that is needed to DIR
#   DIR/run.sh [MODEL.gguf …]     there: runs it; models to bench besides the embedded one, perhaps one with experts
#
# Prints a short table last. Exit code 1 if anything failed, 3 where there is no GPU.
set -uo pipefail

if [ "${1:-}" = pack ]; then
  set -e
  [ $# = 2 ] || { echo "usage: $0 pack DIR"; exit 2; }
  mkdir -p "$2" && to=$(cd "$2" && pwd)
  cd "$(dirname "$0")/../.."
  cargo build --locked --release --features cuda
  tests=$(cargo test --locked --release --features cuda-emulation --test it --no-run --message-format=json |
    grep -F "\"kind\":[\"test\"]" | sed -n "s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -1)
  cp target/release/longtake "$to/longtake"
  cp "$tests" "$to/it"
  cp tests/gpu/run.sh "$to/run.sh"
  # Where the tests look for their files is compiled in.
  pwd >"$to/root"
  tar cf "$to/files.tar" tests/random_model tests/golden tests/golden_families tests/golden_experts
  echo "packed $(du -sh "$to" | cut -f1) into $to"
  exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/longtake" ] || { echo "this folder holds no binary: make one with \`tests/gpu/run.sh pack DIR\`"; exit 2; }
if ! "$here/longtake" inspect --gpus; then
  echo "NO GPU: nothing was tested"
  exit 3
fi
root=$(cat "$here/root")
if [ ! -d "$root/tests/random_model" ]; then
  mkdir -p "$root" && tar xf "$here/files.tar" -C "$root" || { echo "cannot unpack the tests' files into $root"; exit 1; }
fi

table="" failed=0
row() { table+=$(printf '%-34s %s' "$1" "$2")$'\n'; }
check() { # name, command …
  local name=$1 started=$SECONDS; shift
  echo "== $name"
  if "$@"; then row "$name" "ok, $((SECONDS - started)) s"; else row "$name" FAILED; failed=1; fi
}
demo=$root/tests/random_model
# Its weights have 16 bits, so that CPU and GPU round little and choose the same words.
model=$root/tests/golden/gguf_models/tiny-c.gguf
same() { # the same greedy answer from the CPU and from the GPU, with recorded steps and without
  local ask=(run -m "$model" --video "$demo/demo.mp4" -p "What happens?" -n 24 --quiet)
  local cpu gpu graphs
  cpu=$("$here/longtake" "${ask[@]}") || return 1
  for graphs in 1 0; do
    gpu=$(LONGTAKE_CUDA_GRAPH=$graphs "$here/longtake" "${ask[@]}" -ngl all) || return 1
    [ "$cpu" = "$gpu" ] || { echo "CPU: $cpu"; echo "GPU: $gpu (LONGTAKE_CUDA_GRAPH=$graphs)"; return 1; }
  done
}
experts() { # a tiny model with experts, one context and several; what large ones cost, files given as MODEL tell
  local dir done; dir=$(mktemp -d)
  "$here/longtake" convert "$root/tests/golden_experts/checkpoints/q35moe-a" -o "$dir/m.gguf" &&
    "$here/longtake" bench -m "$dir/m.gguf" -p 64 -n 16 -e none -ngl all --parallel 1,4,8
  done=$?
  rm -r "$dir"
  return $done
}
recorded() { # the driver records: nothing is said about launches one by one
  ! "$here/longtake" run -m "$model" -p "What happens?" -n 8 -ngl all 2>&1 >/dev/null | grep "launched one by one"
}
take() { # a take written from the GPU answers the same on both
  local dir answers; dir=$(mktemp -d)
  "$here/longtake" watch -m "$model" "$demo/demo.mp4" -o "$dir/a.take" --quiet -ngl all || return 1
  for ngl in 0 all; do "$here/longtake" ask "$dir/a.take" "What happens?" -n 16 --quiet -ngl $ngl >"$dir/$ngl" || return 1; done
  cmp "$dir/0" "$dir/all"; answers=$?
  rm -r "$dir"
  return $answers
}
export LONGTAKE_CUDA_TEST=gpu
check "kernels, network, goldens" "$here/it" cuda:: --test-threads=1
check "the same without graphs" env LONGTAKE_CUDA_GRAPH=0 "$here/it" cuda:: --test-threads=1
check "a driver that records" recorded
check "answer of CPU and GPU" same
check "take across CPU and GPU" take
check "bench of experts" experts
for graphs in 1 0; do
  export LONGTAKE_CUDA_GRAPH=$graphs
  check "bench demo, graphs $graphs" "$here/longtake" bench -m "$demo/demo.gguf" -ngl all --parallel 1,4,8
  for file in "$@"; do
    check "bench $(basename "$file"), graphs $graphs" \
      "$here/longtake" bench -m "$file" -p 512,2048 -n 64 -d 0,16384 -ngl all
    # What contexts gain by decoding together: 4 of them are expected to make at least 2.5 times the tokens of one.
    check "together $(basename "$file"), graphs $graphs" \
      "$here/longtake" bench -m "$file" -p 0 -n 64 -d 0,4096 -e none -ngl all --parallel 1,2,4,8,16
  done
done
unset LONGTAKE_CUDA_GRAPH
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    check "compute-sanitizer $tool" compute-sanitizer --tool $tool --error-exitcode 1 "$here/it" cuda:: --test-threads=1 \
      --skip cuda::model
  done
else
  row "compute-sanitizer" "not installed, skipped"
fi
printf '\n%s' "$table"
exit $failed
