#!/usr/bin/env bash
# Makes a small model and video for tests: a tiny HoPE model with random weights and a short H.264 video.
# Needs ffmpeg and a Python with training/requirements.txt (PYTHON names it); same inputs, same bytes for the model.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" training/random_checkpoint.py "$work/longtake-demo" --shape tiny --seed 5
cargo run --release -- convert "$work/longtake-demo" -o "$work/demo.gguf" --outtype q8_0 --mmproj-outtype q8_0 --rope hope
cp "$work/demo.gguf" tests/random_model/demo.gguf
cp "$work/mmproj-demo.gguf" tests/random_model/mmproj-demo.gguf

# Twelve seconds of drawn shapes at 12 frames a second, with B-frames, as a camera or an editor would write them.
ffmpeg -y -v error -f lavfi -i "testsrc2=size=320x180:rate=12:duration=12" -c:v libx264 -profile:v high -pix_fmt yuv420p \
  -crf 34 -preset veryslow -threads 1 -movflags +faststart -fflags +bitexact -flags:v +bitexact tests/random_model/demo.mp4
ls -l tests/random_model
