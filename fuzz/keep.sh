#!/usr/bin/env bash
# Packs what campaigns have found so far into fuzz/corpus, for the next one on any machine: of each target, or of those named, the
# fewest inputs that reach all that the whole corpus reaches.
#
#   fuzz/keep.sh [TARGET…]
#
# Takes the corpus of LONGTAKE_FUZZ_DIR (default: /tmp/fuzz-corpus) and the binaries that fuzz/campaign.sh built.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${LONGTAKE_FUZZ_DIR:-/tmp/fuzz-corpus}
bin=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
# Inputs above this size (as `find` has it) are left out, and all archives together stay below this many bytes.
largest=64k most=$((4 << 20))
mapfile -t all < <(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml)
targets=("${@:-${all[@]}}")
mkdir -p fuzz/corpus
for target in "${targets[@]}"; do
  [ -d "$dir/$target" ] || { echo "$target: no corpus in $dir" >&2; exit 1; }
  least=$(mktemp -d)
  "$bin/$target" -merge=1 -rss_limit_mb=3072 -timeout=20 "$least" "$dir/$target" > "$least.log" 2>&1 ||
    { tail -n 5 "$least.log" >&2; echo "$target: not merged" >&2; exit 1; }
  find "$least" -type f -size +$largest -delete
  # The same inputs are the same bytes.
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$least" -cf - . | xz -9e > "fuzz/corpus/$target.tar.xz.part"
  mv "fuzz/corpus/$target.tar.xz.part" "fuzz/corpus/$target.tar.xz"
  echo "$target: $(find "$dir/$target" -type f | wc -l) inputs, $(find "$least" -type f | wc -l) kept in $(stat -c %s "fuzz/corpus/$target.tar.xz") bytes"
  rm -r "$least" "$least.log"
done
size=$(cat fuzz/corpus/*.tar.xz | wc -c)
echo "all: $size bytes"
[ "$size" -lt $most ] || { echo "expected less than $most bytes" >&2; exit 1; }
