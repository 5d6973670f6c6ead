"""Drawn video: backgrounds that mean nothing, and symbols on a light ground that questions are about.

A frame pair is a uint8 array (2, height, width, 3). Everything is drawn from a numpy generator, so a seed gives the same
pixels on any machine.
"""
import math

import numpy as np

SHAPES = ["circle", "square", "triangle", "star", "cross", "heart", "ring", "diamond"]
COLORS = {
    "red": (215, 35, 35), "orange": (245, 140, 20), "yellow": (238, 212, 25), "green": (40, 160, 60),
    "blue": (40, 80, 220), "purple": (140, 45, 185), "pink": (245, 120, 185), "black": (25, 25, 25),
}
COLOR_NAMES = list(COLORS)


def inside(shape, u, v):
    """Which points (u to the right, v down, about a unit around 0) lie in a shape."""
    r = np.hypot(u, v)
    if shape == "circle":
        return r <= 0.9
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.8
    if shape == "diamond":
        return abs(u) + abs(v) <= 1.0
    if shape == "triangle":
        return (v <= 0.75) & (v + 1.0 >= abs(u) * (1.75 / 0.95))
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 0.9)
    if shape == "ring":
        return (r <= 0.9) & (r >= 0.5)
    if shape == "heart":
        x, y = 1.2 * u, -1.2 * v
        return (x * x + y * y - 1.0) ** 3 - x * x * y**3 <= 0.0
    # A star: every point is folded onto the half ray between an outer corner (1, 0) and the inner one beside it.
    part = 2 * math.pi / 5
    angle = abs((np.arctan2(v, u) + math.pi / 2 + part / 2) % part - part / 2)
    x, y = r * np.cos(angle), r * np.sin(angle)
    bx, by = 0.42 * math.cos(part / 2) - 1.0, 0.42 * math.sin(part / 2)
    return bx * y - by * (x - 1.0) >= 0.0


def grid(height, width):
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x, y


def mixed(weight, a, b):
    """Colours between `a` (weight 0) and `b` (weight 1)."""
    return a + weight[..., None] * (b - a)


def with_noise(rng, frames, deviation):
    frames = frames + rng.standard_normal(frames.shape, dtype=np.float32) * np.float32(deviation)
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)


def background(rng, height, width):
    """A frame pair of the haystack: plain, stripes, checkers, a gradient, rings or clouds, moving a little."""
    x, y = grid(height, width)
    a, b = rng.uniform(0, 255, 3).astype(np.float32), rng.uniform(0, 255, 3).astype(np.float32)
    kind = rng.integers(6)
    turn = rng.uniform(0, 2 * math.pi) if rng.random() < 0.5 else rng.integers(4) * math.pi / 2
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    period, phase, speed = rng.uniform(10, 60), rng.uniform(0, 60), rng.uniform(-8, 8)
    hard = rng.random() < 0.7
    frames = []
    for f in range(2):
        at = phase + f * speed
        if kind == 0:
            weight = np.zeros_like(x)
        elif kind == 1:
            weight = 0.5 + 0.5 * np.sin((along + at) * (2 * math.pi / period))
        elif kind == 2:
            weight = 0.5 + 0.5 * np.sin((along + at) * (2 * math.pi / period)) * np.sin(across * (2 * math.pi / period))
        elif kind == 3:
            weight = (along + at - along.min()) / (np.ptp(along) + 1.0)
        elif kind == 4:
            cx, cy = phase / 60 * width, (turn / (2 * math.pi)) * height
            weight = 0.5 + 0.5 * np.sin((np.hypot(x - cx, y - cy) + at) * (2 * math.pi / period))
        else:
            weight = sum(
                np.sin((x * math.cos(t) + y * math.sin(t) + at) * (2 * math.pi / p) + t)
                for t, p in zip(turn + np.array([0.3, 2.1, 4.4]), period * np.array([1.0, 1.7, 2.9]))
            ) / 6 + 0.5
        if hard and kind in (1, 2, 4):
            weight = (weight > 0.5).astype(np.float32)
        frames.append(mixed(np.clip(weight, 0, 1).astype(np.float32), a, b))
    return with_noise(rng, np.stack(frames), rng.uniform(0, 12))


def symbol(rng, height, width, shape, color):
    """A frame pair with one symbol on a light ground, and where it is: (pair, mask in [0, 1] of (height, width))."""
    ground = rng.uniform(205, 255) + rng.uniform(-12, 12, 3)
    ink = np.array(COLORS[color], np.float32) + rng.uniform(-18, 18, 3)
    most = 0.5 * min(height, width)
    radius = rng.uniform(min(0.62 * most, 28), min(most, 62))
    cx, cy = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    tilt = rng.uniform(-0.2, 0.2)
    mask = np.zeros((height, width), np.float32)
    x0, x1 = max(0, int(cx - 1.3 * radius)), min(width, int(cx + 1.3 * radius) + 2)
    y0, y1 = max(0, int(cy - 1.3 * radius)), min(height, int(cy + 1.3 * radius) + 2)
    # Edges are smooth: three by three points for each pixel.
    y, x = np.mgrid[0 : 3 * (y1 - y0), 0 : 3 * (x1 - x0)].astype(np.float32)
    dx, dy = (x / 3 + x0 - cx) / radius, (y / 3 + y0 - cy) / radius
    u, v = dx * math.cos(tilt) + dy * math.sin(tilt), dy * math.cos(tilt) - dx * math.sin(tilt)
    fine = inside(shape, u, v).astype(np.float32)
    mask[y0:y1, x0:x1] = fine.reshape(y1 - y0, 3, x1 - x0, 3).mean((1, 3))
    frame = mixed(mask, ground.astype(np.float32), ink)
    return with_noise(rng, np.stack([frame, frame]), rng.uniform(0, 10)), mask


MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def patches(pairs):
    """Frame pairs (n, 2, height, width, 3) as rows of patches (n, patches, 1176), in the order of Qwen2-VL."""
    n, _, height, width, _ = pairs.shape
    gh, gw = height // 28, width // 28
    v = (pairs.astype(np.float32) / 255 - MEAN) / STD
    v = v.reshape(n, 2, gh, 2, 14, gw, 2, 14, 3).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(v).reshape(n, gh * gw * 4, 1176)
