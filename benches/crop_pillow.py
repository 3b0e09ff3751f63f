"""`preprocess crop` beside Pillow: the same bytes, and images/s on one thread.

    cargo build --release -p preprocess
    python benches/crop_pillow.py PHOTOS [--program target/release/preprocess] [--size 256] [--repeats 3]

PHOTOS is a folder of JPEG files. Pillow's time is decoding and cropping alone; ours includes reading the files and
writing the PNGs, so the ratio that is printed is a lower bound. Needs numpy and Pillow.
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
ours, theirs, differ = [], [], 0
for repeat in range(args.repeats):
    with tempfile.TemporaryDirectory() as out:
        command = [args.program, "crop", args.photos, "--size", str(args.size), "--out", out, "--threads", "1", "--json"]
        report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        ours.append(report["images_per_second"])
        start = time.perf_counter()
        crops = [center_crop(Image.open(io.BytesIO(b)).convert("RGB"), args.size) for b in contents]
        theirs.append(len(crops) / (time.perf_counter() - start))
        if repeat == 0:
            saved = [np.array(Image.open(pathlib.Path(out) / f"{f.stem}.png")) for f in files]
            differ = sum(not np.array_equal(a, b) for a, b in zip(saved, crops))

print(f"{len(files)} photographs, {differ} with other bytes, best and median of {args.repeats}, one thread")
for name, rates in (("preprocess crop", ours), ("Pillow", theirs)):
    print(f"{name:16} {max(rates):7.2f} {np.median(rates):7.2f} images/s")
print(f"ratio            {max(ours) / max(theirs):7.2f} {np.median(ours) / np.median(theirs):7.2f}")
