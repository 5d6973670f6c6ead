#!/usr/bin/env bash
# Makes the files that `longtake demo` embeds: a tiny HoPE model with random weights and a short H.264 video.
# Needs ffmpeg and a Python with training/requirements.txt (PYTHON names it); same inputs, same bytes for the model.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" training/random_checkpoint.py "$work/longtake-demo" --shape tiny --seed 5
cargo run --release -- convert "$work/longtake-demo" -o "$work/demo.gguf" --outtype q8_0 --mmproj-outtype q8_0 --rope hope
cp "$work/demo.gguf" assets/demo/demo.gguf
cp "$work/mmproj-demo.gguf" assets/demo/mmproj-demo.gguf

# Twelve seconds of drawn shapes at 12 frames a second, with B-frames, as a camera or an editor would write them.
ffmpeg -y -v error -f lavfi -i "testsrc2=size=320x180:rate=12:duration=12" -c:v libx264 -profile:v high -pix_fmt yuv420p \
  -crf 34 -preset veryslow -threads 1 -movflags +faststart -fflags +bitexact -flags:v +bitexact assets/demo/demo.mp4
ls -l assets/demo
