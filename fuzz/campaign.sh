#!/usr/bin/env bash
# Fuzzes every target, or those named, for so many seconds each, one after another, and prints what all runs so far came to.
#
#   fuzz/campaign.sh SECONDS_PER_TARGET [TARGET…]
#
# Corpus, findings and results stay in LONGTAKE_FUZZ_DIR (default: /tmp/fuzz-corpus), so that the next call goes on where this
# one ended; a target that has no corpus there begins with the one in fuzz/corpus, which fuzz/keep.sh makes. Needs cargo-fuzz
# (cargo install cargo-fuzz); any stable toolchain does. LONGTAKE_FUZZ_BUILD=0 takes the binaries that are there. Ends with 1
# when there was a finding.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz/campaign.sh SECONDS_PER_TARGET [TARGET…]}
shift
dir=${LONGTAKE_FUZZ_DIR:-/tmp/fuzz-corpus}
bin=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
mapfile -t all < <(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml)
targets=("${@:-${all[@]}}")

if [ "${LONGTAKE_FUZZ_BUILD:-1}" = 1 ]; then
  # Nearly all of the code under test is safe Rust, where an address sanitizer would find nothing and cost half the speed.
  RUSTC_BOOTSTRAP=1 cargo fuzz build --sanitizer none
fi

results=$dir/results.tsv
mkdir -p "$dir"
[ -s "$results" ] || printf 'target\tseconds\texecutions\tcov_before\tcov_after\tfeatures\tinputs\tfindings\n' > "$results"
found=0
for target in "${targets[@]}"; do
  corpus=$dir/$target
  findings=$dir/findings/$target
  log=$dir/$target.log
  mkdir -p "$corpus" "$findings"
  if [ -z "$(ls -A "$corpus")" ] && [ -f "fuzz/corpus/$target.tar.xz" ]; then tar -xf "fuzz/corpus/$target.tar.xz" -C "$corpus"; fi
  dict=fuzz/dict/$target.dict
  status=0
  LONGTAKE_FUZZ_SEEDS=$corpus "$bin/$target" "$corpus" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3072 \
    -use_value_profile=0 -print_final_stats=1 -artifact_prefix="$findings/" \
    $([ -f "$dict" ] && echo "-dict=$dict") > "$log" 2>&1 || status=$?
  number() { grep -oE "$1[ :]+[0-9]+" "$log" | grep -oE '[0-9]+$' || true; }
  before=$(grep INITED "$log" | grep -oE 'cov: [0-9]+' | grep -oE '[0-9]+' || echo 0)
  after=$(number 'cov' | tail -1)
  features=$(number 'ft' | tail -1)
  executions=$(number 'stat::number_of_executed_units' | tail -1)
  n=$(find "$findings" -type f | wc -l)
  printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$target" "$seconds" "${executions:-0}" "$before" "${after:-0}" "${features:-0}" \
    "$(find "$corpus" -type f | wc -l)" "$n" >> "$results"
  if [ "$status" != 0 ]; then
    found=1
    echo "$target: ended with $status; see $log" >&2
    tail -n 30 "$log" >&2
  fi
done

# All runs of each target: what was run, what coverage the first began with, and what the last one found anew.
awk -F'\t' '
  NR > 1 && $3 > 0 {
    if (!($1 in n)) { order[++k] = $1; first[$1] = $4 }
    n[$1] += $3; s[$1] += $2; last[$1] = $5; fresh[$1] = $5 - $4; ft[$1] = $6; inputs[$1] = $7; findings[$1] = $8
    total += $3
  }
  END {
    print "| target | executions | a second | coverage: seeds | now | new in the last run | features | inputs | findings |"
    print "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for (i = 1; i <= k; i++) {
      t = order[i]
      printf "| %s | %.0f | %.0f | %d | %d | %d | %d | %d | %d |\n", t, n[t], n[t] / s[t], first[t], last[t], fresh[t], ft[t], inputs[t], findings[t]
    }
    printf "| all | %.0f | | | | | | | |\n", total
  }' "$results"
exit $found
