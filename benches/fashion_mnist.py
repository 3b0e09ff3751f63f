"""Writes Fashion-MNIST as PNG files in class subfolders, for `preprocess encode --dataset folder`.

    python benches/fashion_mnist.py OUT [--source /usr/share/datasets/fashion-mnist] [--limit 60000]

`--source` holds the four original .gz files (Debian's package `dataset-fashion-mnist` installs them there). Needs pillow.
"""

import argparse
import gzip
import os

from PIL import Image

CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
SIDE = 28


def values(path, header):
    with gzip.open(path) as file:
        return file.read()[header:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--source", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--limit", type=int, default=60000)
    args = parser.parse_args()
    pixels = values(os.path.join(args.source, "train-images-idx3-ubyte.gz"), 16)
    labels = values(os.path.join(args.source, "train-labels-idx1-ubyte.gz"), 8)
    for number, name in enumerate(CLASSES):
        os.makedirs(os.path.join(args.out, f"{number}-{name}"), exist_ok=True)
    for i, label in enumerate(labels[:args.limit]):
        image = Image.frombytes("L", (SIDE, SIDE), pixels[i * SIDE * SIDE:(i + 1) * SIDE * SIDE])
        image.save(os.path.join(args.out, f"{label}-{CLASSES[label]}", f"{i:05d}.png"))


if __name__ == "__main__":
    main()
