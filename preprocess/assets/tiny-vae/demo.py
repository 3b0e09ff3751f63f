"""The built-in demo set in numpy, for the training of the assets. `preprocess/src/dataset/demo.rs` draws the same
distribution (not the same bits): ten classes of coloured shapes and textures, `side` pixels a side."""

import numpy as np

CLASSES = ["disc", "ring", "square", "triangle", "star", "cross", "hstripes", "vstripes", "checker", "dots"]
FOREGROUND = np.array(
    [(230, 57, 70), (244, 140, 6), (255, 215, 50), (120, 200, 60), (20, 140, 90),
     (40, 190, 210), (38, 110, 214), (100, 60, 200), (200, 60, 180), (150, 90, 50)]) / 255
BACKGROUND = np.array(
    [(245, 240, 225), (205, 222, 235), (225, 205, 220), (44, 47, 64), (62, 44, 38), (28, 66, 66)]) / 255


def distance(kind, x, y, dx, dy, r, u):
    """Signed distance to the shape (negative inside), in units of the image side."""
    angle = 0.7 * (u[5] - 0.5) if kind in (2, 3, 5) else 2 * np.pi * u[5]
    xs = np.cos(angle) * dx + np.sin(angle) * dy
    ys = -np.sin(angle) * dx + np.cos(angle) * dy
    q = np.hypot(xs, ys)
    period, tilt = 0.16 + 0.14 * u[8], 0.24 * (u[11] - 0.5)

    def band(v, phase):
        return (np.abs((v / period + phase) % 1 - 0.5) - 0.25) * period

    def cell(v, phase):
        return ((v / (1.3 * period) + phase) % 1 - 0.5) * 1.3 * period

    if kind == 0:
        return q - r
    if kind == 1:
        return np.abs(q - 0.82 * r) - 0.2 * r
    if kind == 2:
        return np.maximum(np.abs(xs), np.abs(ys)) - 0.85 * r
    if kind == 3:
        return np.maximum(0.8660254 * np.abs(xs) - 0.5 * ys, ys) - 0.55 * r
    if kind == 4:
        fifth = np.radians(72)
        b = np.arctan2(xs, -ys) % fifth
        b = np.minimum(b, fifth - b)
        px, py, outer = q * np.cos(b), q * np.sin(b), 1.15 * r
        ex, ey = 0.45 * outer * np.cos(fifth / 2) - outer, 0.45 * outer * np.sin(fifth / 2)
        return ((px - outer) * ey - py * ex) / np.hypot(ex, ey)
    if kind == 5:
        ax, ay = np.abs(xs), np.abs(ys)
        return np.minimum(np.maximum(ax - 1.1 * r, ay - 0.36 * r), np.maximum(ay - 1.1 * r, ax - 0.36 * r))
    if kind == 6:
        return band(y + tilt * x, u[9])
    if kind == 7:
        return band(x + tilt * y, u[9])
    mx, my = cell(x - tilt * y, u[10]), cell(y + tilt * x, u[9])
    if kind == 8:
        s1, s2 = np.abs(mx) - 0.325 * period, np.abs(my) - 0.325 * period
        return -np.sign(s1 * s2) * np.minimum(np.abs(s1), np.abs(s2))
    return np.hypot(mx, my) - 0.39 * period


def draw(rng, kind, side):
    """One image, u8 [side, side, 3]."""
    u = rng.random(16)
    grid = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(grid, grid)
    cx, cy, r = 0.5 + 0.08 * (u[2] - 0.5), 0.5 + 0.08 * (u[3] - 0.5), 0.29 + 0.07 * u[4]
    slope = (x - 0.5) * np.cos(2 * np.pi * u[6]) + (y - 0.5) * np.sin(2 * np.pi * u[6])
    back = BACKGROUND[int(6 * u[1])] * (1 + 0.5 * u[7] * slope)[..., None]
    front = (FOREGROUND[kind] + 0.1 * (u[13:16] - 0.5)) * (1 - 0.35 * u[12] * (0.5 + slope))[..., None]
    cover = np.clip(0.5 - distance(kind, x, y, x - cx, y - cy, r, u) * side, 0, 1)[..., None]
    rgb = back * (1 - cover) + front * cover + 0.012 * rng.standard_normal((side, side, 1))
    return np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def images(seed, count, side):
    """`count` images, class = index mod 10: u8 [count, side, side, 3] and labels."""
    rng = np.random.default_rng(seed)
    return np.stack([draw(rng, i % 10, side) for i in range(count)]), np.arange(count) % 10
