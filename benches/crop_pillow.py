"""`preprocess crop` beside Pillow: the same bytes, and images/s on one thread.

    cargo build --release          # with nasm installed, JPEG decoding uses SIMD
    python benches/crop_pillow.py PHOTOS [--program target/release/preprocess] [--size 256] [--repeats 3]

PHOTOS is a folder of JPEG files. `preprocess crop` reads files, decodes, crops and writes PNGs. Pillow is timed twice: decoding
and cropping alone, from memory, and the whole of the same work (PNGs at its quickest level). Needs numpy and Pillow.
"""

import argparse
import io
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image


def center_crop(image, size):
    """ADM's center_crop_arr (guided-diffusion, image_datasets.py)."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    pixels = np.array(image)
    y, x = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[y : y + size, x : x + size]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", type=pathlib.Path)
parser.add_argument("--program", default="target/release/preprocess")
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--repeats", type=int, default=3)
args = parser.parse_args()

files = sorted(f for f in args.photos.iterdir() if f.suffix.lower() in (".jpg", ".jpeg"))
contents = [f.read_bytes() for f in files]
ours, theirs, whole, differ = [], [], [], 0
for repeat in range(args.repeats):
    with tempfile.TemporaryDirectory() as out:
        command = [args.program, "crop", args.photos, "--size", str(args.size), "--out", out, "--threads", "1", "--json"]
        report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        ours.append(report["images_per_second"])
        start = time.perf_counter()
        crops = [center_crop(Image.open(io.BytesIO(b)).convert("RGB"), args.size) for b in contents]
        theirs.append(len(crops) / (time.perf_counter() - start))
        start = time.perf_counter()
        for name in files:
            crop = center_crop(Image.open(name).convert("RGB"), args.size)
            Image.fromarray(crop).save(pathlib.Path(out) / "pillow.png", compress_level=1)
        whole.append(len(files) / (time.perf_counter() - start))
        if repeat == 0:
            saved = [np.array(Image.open(pathlib.Path(out) / f"{f.stem}.png")) for f in files]
            differ = sum(not np.array_equal(a, b) for a, b in zip(saved, crops))

print(f"{len(files)} photographs, {differ} with other bytes, best and median of {args.repeats}, one thread")
rows = (("preprocess crop", ours), ("Pillow, decoding and cropping alone", theirs), ("Pillow, the same work", whole))
for name, rates in rows:
    ratios = f"ratio {max(ours) / max(rates):5.2f} {np.median(ours) / np.median(rates):5.2f}"
    print(f"{name:36} {max(rates):7.1f} {np.median(rates):7.1f} images/s   {ratios}")
