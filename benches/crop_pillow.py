"""JPEG bytes to ADM's 256-pixel crop, from memory, on one thread: us beside Pillow, in CPU seconds.

    python benches/crop_pillow.py PHOTOS [--size 256] [--repeats 5]

PHOTOS is a folder of image files. The two take turns. Pillow-SIMD is measured by running this with an interpreter that has it. Needs
numpy and Pillow; cargo builds our side (the benchmark `crop`). Whether the bytes agree is told by `image_bytes.py`.
"""

import argparse
import io
import json
import pathlib
import subprocess
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    files = sorted(f for f in args.photos.iterdir() if f.is_file())
    contents = [f.read_bytes() for f in files]
    command = ["cargo", "bench", "--quiet", "--workspace", "--bench", "crop", "--", args.photos.resolve()]
    command += ["--size", str(args.size), "--repeats", "1"]
    ours, theirs = [], []
    for _ in range(args.repeats):
        line = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1]
        ours.append(len(files) / json.loads(line)["cpu_seconds"])
        start = time.process_time()
        for data in contents:
            center_crop(Image.open(io.BytesIO(data)).convert("RGB"), args.size)
        theirs.append(len(files) / (time.process_time() - start))
    mean = sum(map(len, contents)) / len(contents) / 1000
    print(f"{len(files)} files of {mean:.0f} kB on average, images per CPU-second, best and median of {args.repeats}")
    for name, rates in (("ours", ours), (f"Pillow {Image.__version__}", theirs)):
        ratios = f"ours is {max(ours) / max(rates):5.2f} {np.median(ours) / np.median(rates):5.2f} times as fast"
        print(f"{name:20} {max(rates):8.1f} {np.median(rates):8.1f}   {ratios}")


if __name__ == "__main__":
    main()
