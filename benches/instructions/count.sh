#!/usr/bin/env bash
# Instructions that the kernels for aarch64 need beside ggml's, counted under emulation: says nothing about speed but how much there is
# to do. One thread; of a product or an attention the difference between one run and three, so that starting does not count.
#
#   benches/instructions/count.sh      needs Debian 12's qemu-user, aarch64 compilers and cmake; .ci/aarch64 gets what Rust needs
#
# Products of 1536 x 2048 (2B shapes) with one token and with 32; attention of 12 heads on 2 KV heads of 128 over 2048 keys,
# one token and 32. Each line: instructions for 32 multiplications and additions here and in ggml, and the ratio.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=$(realpath -m "${LONGTAKE_AARCH64:-target/aarch64}")
work=$home/instructions
mkdir -p "$work"
gcc -O1 -shared -fPIC -o "$work/insns.so" benches/instructions/insns.c

cargo fetch --locked --quiet
version=$(sed -n 's/^llama-cpp-sys-2 .*"=\([0-9.]*\)".*/\1/p' vendor/ggml-sys/Cargo.toml)
source=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/llama-cpp-sys-2-"$version"/llama.cpp/ggml | head -n 1)
build_ggml() { # NAME ARCHITECTURE
  local dir=$work/ggml-$1
  mkdir -p "$work/ggml"
  printf 'cmake_minimum_required(VERSION 3.14)\nproject(count C CXX)\nadd_subdirectory(%s ggml)\n' "$source" >"$work/ggml/CMakeLists.txt"
  cmake -S "$work/ggml" -B "$dir" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF \
    -DGGML_CPU_ARM_ARCH="$2" -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=ON -DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF >"$dir.log"
  cmake --build "$dir" -j 2 >>"$dir.log"
  aarch64-linux-gnu-g++ -O2 -I"$source/include" benches/instructions/ggml.cpp -o "$dir/count" -Wl,--start-group "$dir"/ggml/src/*.a -Wl,--end-group -lpthread -lm -ldl
}

# A program of its own: benches build every feature.
rm -rf "$work/count"
mkdir -p "$work/count/src"
cp benches/instructions/count.rs "$work/count/src/main.rs"
cp Cargo.lock "$work/count/"
cat >"$work/count/Cargo.toml" <<TOML
[package]
name = "count"
version = "0.0.0"
edition = "2024"

[dependencies]
longtake = { path = "$PWD", default-features = false }

[workspace]

$(sed -n '/^\[profile.release\]$/,/^$/p' Cargo.toml)
TOML
rustc=rustc
[ -d "$(rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu/lib" ] || rustc=$home/rust/rustc
[ "$rustc" = rustc ] || [ -x "$rustc" ] || { echo "no Rust for aarch64 yet: .ci/aarch64 gets it"; exit 1; }
(cd "$work/count" && RUSTC=$rustc CARGO_TARGET_DIR=$work/build CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
  CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++ \
  cargo build --quiet --release --target aarch64-unknown-linux-gnu)
ours=$work/build/aarch64-unknown-linux-gnu/release/count

run() { taskset -c "$(taskset -cp $$ | sed 's/.*: *\([0-9]*\).*/\1/')" qemu-aarch64 -cpu "$cpu" -L /usr/aarch64-linux-gnu -plugin "$work/insns.so" "$@" 2>&1 | sed -n 's/^instructions //p'; }
# Work, "TIMES" among its words: instructions of one time.
once() {
  local few='' many=''
  few=$(run "${@/TIMES/1}") && many=$(run "${@/TIMES/3}")
  [ -n "$few" ] && [ -n "$many" ] || return 1
  echo $(((many - few) / 2))
}
line() { # NAME MULTIPLICATIONS OURS THEIRS...
  local name=$1 n=$2 here=$3 best= other
  shift 3
  for other in "$@"; do { [ -n "$best" ] && [ "$best" -le "$other" ]; } || best=$other; done
  awk -v name="$name" -v n="$n" -v here="$here" -v there="${best:-0}" \
    'BEGIN { printf "| %s | %.2f | %s | %s |\n", name, 32 * here / n, there ? sprintf("%.2f", 32 * there / n) : "–", there ? sprintf("%.2f", here / there) : "–" }'
}

while read -r cpu table arch <&3; do
  build_ggml "$table" "$arch"
  theirs=$work/ggml-$table/count
  printf '\n| %s | here | ggml | ratio |\n|---|--:|--:|--:|\n' "$table"
  for tokens in 1 32; do
    for type in Q4_K Q6_K Q4_0 Q8_0; do
      here=$(once "$ours" product $type 1536 2048 $tokens TIMES)
      plain=$(once "$theirs" product $type 1536 2048 $tokens TIMES plain) || plain=
      repack=$(once "$theirs" product $type 1536 2048 $tokens TIMES repack) || repack=
      line "$type, $tokens" $((1536 * 2048 * tokens)) "$here" $plain $repack
    done
  done
  for tokens in 1 32; do
    for type in F16 Q8_0; do
      here=$(once "$ours" attention $type 2048 $tokens TIMES)
      there=$(once "$theirs" attention $type 2048 $tokens TIMES) || there=
      line "attention over $type, $tokens" $((2 * 12 * 128 * (2048 * tokens + tokens * (tokens + 1) / 2))) "$here" $there
    done
  done
done 3<<'CPUS'
max        neoni8mm armv8.2-a+dotprod+i8mm+fp16
cortex-a76 neondot  armv8.2-a+dotprod+fp16
cortex-a72 neon     armv8-a
CPUS
