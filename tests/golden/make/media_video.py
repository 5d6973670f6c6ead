"""Frames for media_files.sh, and what ffmpeg decodes from the files it made.

Usage: media_video.py raw WIDTH HEIGHT FRAMES FIRST > frames.rgb
       media_video.py expect FOLDER       writes FOLDER/videos.json
"""
import json
import os
import subprocess
import sys

import numpy as np

GRID = 4
BUILT_IN = ["baseline.mp4", "high_b.mp4", "main_b.mp4", "cropped.mp4", "bt709.mp4", "full_range.mp4", "fragments.mp4",
            "open_gop.mp4", "moving.mov", "one_frame.mp4", "vfr.mp4", "rotated_90.mp4", "rotated_180.mp4",
            "rotated_270.mp4", "edited.mp4", "two_sizes.mp4", "yuv420p.y4m", "yuv422p.y4m", "yuv444p.y4m", "gray.y4m",
            "moving.gif"]
OTHERS = ["ten_bit.mp4", "four_four_four.mp4", "interlaced.mp4", "hevc.mp4", "vp9.webm"]


def frame(width, height, i):
    """Four bands of colour sliding right by a pixel a frame; the middle block's brightness is 16 + 9 i."""
    bands = np.array([[210, 60, 50], [60, 170, 80], [50, 80, 200], [200, 190, 70]], np.float64)
    y, x = np.mgrid[0:height, 0:width]
    rgb = bands[((x + width - i % width) * 4 // width) % 4] * (0.7 + 0.3 * y[..., None] / height)
    rgb[height // 4: 3 * height // 4, width // 4: 3 * width // 4] = 16 + 9 * i
    return rgb.astype(np.uint8)


def raw(width, height, n, first):
    for i in range(first, first + n):
        sys.stdout.buffer.write(frame(width, height, i).tobytes())


def probe(path):
    out = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries",
                          "frame=pts_time", "-of", "json", path], check=True, capture_output=True).stdout
    return [float(f["pts_time"]) for f in json.loads(out)["frames"]]


def decode(path):
    """All frames as (n, height, width, 3), each timestamp once."""
    png = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"],
                         check=True, capture_output=True).stdout
    width, height = (int(v) for v in png.split(b"\n", 2)[1].split())
    data = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo",
                           "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


def grid_means(image):
    """Mean RGB of each cell of a 4x4 grid; cell i of n samples covers i*n//4 to (i+1)*n//4."""
    h, w = image.shape[:2]
    cells = []
    for gy in range(GRID):
        for gx in range(GRID):
            cell = image[gy * h // GRID:(gy + 1) * h // GRID, gx * w // GRID:(gx + 1) * w // GRID]
            cells.extend(round(float(v), 2) for v in cell.reshape(-1, 3).mean(axis=0))
    return cells


def expect(folder):
    rows = []
    for name in BUILT_IN + OTHERS:
        path = os.path.join(folder, name)
        frames = decode(path)
        times = probe(path)
        rows.append({"file": name, "built_in": name in BUILT_IN, "height": frames.shape[1], "width": frames.shape[2],
                     "frames": len(frames), "times": times[:len(frames)],
                     "means": [grid_means(f) for f in frames],
                     # Every seventh byte of the first frame: exact values, not means.
                     "samples": frames[0].reshape(-1)[::7].tobytes().hex() if name.startswith(("cropped", "bt709", "full", "yuv", "gray")) else ""})
    with open(os.path.join(folder, "videos.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n")


if __name__ == "__main__":
    if sys.argv[1] == "raw":
        raw(*(int(v) for v in sys.argv[2:6]))
    else:
        expect(sys.argv[2])
