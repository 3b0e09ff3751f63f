"""Cuts photographs into tiles, for a data set of a few hundred real images.

    apt-get install lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers
    python benches/photo_tiles.py OUT [--side 512] [--limit 400] [PATTERN ...]

Writes JPEG files of quality 95. Needs pillow.
"""

import argparse
import glob
import os

from PIL import Image

PATTERNS = [
    "/usr/share/backgrounds/*.jpg",
    "/usr/share/backgrounds/mate/nature/*.jpg",
    "/usr/share/wallpapers/*/contents/images/2560x1600.jpg",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("patterns", nargs="*", default=PATTERNS)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--limit", type=int, default=400)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    tiles = []
    for name in sorted({f for pattern in args.patterns for f in glob.glob(pattern)}):
        image = Image.open(name).convert("RGB")
        for y in range(0, image.height - args.side + 1, args.side):
            tiles += [(name, image.crop((x, y, x + args.side, y + args.side)))
                      for x in range(0, image.width - args.side + 1, args.side)]
    step = max(1, len(tiles) / args.limit)
    picked = [tiles[int(i * step)] for i in range(min(args.limit, len(tiles)))]
    for i, (name, tile) in enumerate(picked):
        # Files of one package have one name: the folder above tells them apart.
        parts = os.path.splitext(name)[0].split(os.sep)
        stem = parts[-4] if parts[-1] == "2560x1600" else parts[-1]
        tile.save(os.path.join(args.out, f"{i:04d}-{stem}.jpg"), quality=95)
    print(f"{len(picked)} of {len(tiles)} tiles")


if __name__ == "__main__":
    main()
