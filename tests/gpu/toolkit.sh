#!/usr/bin/env bash
# nvcc without root, GPU or driver: NVIDIA's wheels (296 MB unpacked) in ~/.cache/longtake, where build.rs looks for it.
# Prints the folder to use as CUDA_HOME. Another version: CUDA_VERSION=13.1 tests/gpu/toolkit.sh
set -euo pipefail
VERSION=${CUDA_VERSION:-13.0}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/longtake
DIR=$CACHE/cuda-$VERSION
if [ ! -x "$DIR/done" ]; then
  echo "fetching nvcc $VERSION into $DIR" >&2
  python3 -m venv "$DIR"
  "$DIR/bin/pip" install -q --no-cache-dir "nvidia-cuda-nvcc==$VERSION.*" "nvidia-nvvm==$VERSION.*" \
    "nvidia-cuda-crt==$VERSION.*" "nvidia-cuda-runtime==$VERSION.*" "nvidia-cuda-cccl==$VERSION.*" >&2
  home=$(echo "$DIR"/lib/python3*/site-packages/nvidia/cu*)
  chmod +x "$home"/bin/* "$home"/nvvm/bin/*
  ln -sfn "$home" "$CACHE/cuda"
  "$CACHE/cuda/bin/nvcc" --version >/dev/null
  install -m 755 /dev/null "$DIR/done"
fi
echo "$CACHE/cuda"
