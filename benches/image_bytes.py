"""Are our pixels Pillow's? Compares every file of a folder: the whole image, and its crop.

    pip install pillow==9.5.0 numpy
    python benches/image_bytes.py FOLDER [--size 256] [--quiet]

Each file is decoded by both, as RGB. A file that Pillow takes and we reject is told with our reason (that is allowed, wrong
pixels are not); the exit code is 1 when any pixels differ. Without FOLDER give --formats: a folder of rare and damaged files is made
first. Needs the `crop` benchmark, which cargo builds.
"""

import argparse
import fnmatch
import hashlib
import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile, features

from crop_pillow import center_crop

warnings.simplefilter("ignore")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, row_bytes, palette=None, transparent=None, claim=None):
    """A PNG of pseudo-random rows; `claim` is the size that its header tells."""
    rng = np.random.default_rng(width * 1000 + height + depth + color)
    raw = b"".join(b"\0" + rng.integers(0, 256, row_bytes, dtype=np.uint8).tobytes() for _ in range(height))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *(claim or (width, height)), depth, color, 0, 0, 0))]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent)] if transparent else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def save(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rare_files():
    """Name and bytes of every format that is met once in a million photographs."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:41, 0:47]
    waves = np.stack([127 + 120 * np.sin(x / (5 + c) + y / (9 - c)) for c in range(4)], -1)
    noise = (waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)
    rgb, rgba, cmyk = (Image.fromarray(noise[..., :n], m) for n, m in ((3, "RGB"), (4, "RGBA"), (4, "CMYK")))
    files = {}
    for depth, color, bits in ((1, 0, 1), (2, 0, 2), (4, 0, 4), (8, 0, 8), (16, 0, 16), (8, 2, 24), (16, 2, 48), (8, 4, 16),
                               (16, 4, 32), (8, 6, 32), (16, 6, 64)):
        files[f"png-{color}-{depth}.png"] = png(29, 17, depth, color, (29 * bits + 7) // 8)
    for depth in (1, 2, 4, 8):
        for entries in (1 << depth, 2):
            palette = bytes(rng.integers(0, 256, 3 * entries, dtype=np.uint8))
            files[f"png-palette-{depth}-{entries}.png"] = png(29, 17, depth, 3, (29 * depth + 7) // 8, palette, b"\0\x80")
    files["png-transparent.png"] = png(29, 17, 8, 2, 87, transparent=b"\0\1\0\2\0\3")
    files["png-60000.png"] = png(1, 1, 8, 2, 3, claim=(60000, 60000))
    files["png-lies.png"] = png(5, 3, 8, 2, 15, claim=(12000, 12000))
    whole = save(rgb, "PNG")
    at = whole.index(b"IDAT") + 4 + struct.unpack(">I", whole[whole.index(b"IDAT") - 4:][:4])[0]
    files["png-crc.png"] = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]
    files["png-truncated.png"] = whole[: len(whole) // 2]
    files["png-garbage-behind.png"] = whole + b"garbage" * 9
    for mode, image in (("rgb", rgb), ("rgba", rgba)):
        for lossless in (False, True):
            files[f"webp-{mode}-{lossless}.webp"] = save(image, "WEBP", lossless=lossless, quality=70)
    files["webp-animated.webp"] = save(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)], duration=50)
    files["webp-truncated.webp"] = files["webp-rgb-False.webp"][:-200]
    for width in range(1, 41):
        height = 1 + (width * 7) % 40
        tile = Image.fromarray(noise[:height, :width, :3])
        files[f"webp-{width}x{height}.webp"] = save(tile, "WEBP", quality=10 + 2 * width)
        alpha = Image.fromarray(noise[:height, :width])
        files[f"webp-alpha-{width}x{height}.webp"] = save(alpha, "WEBP", quality=80, lossless=width % 2 == 0)
        for sampling in (0, 1, 2):
            files[f"jpeg-{width}x{height}-{sampling}.jpg"] = save(tile, "JPEG", quality=20 + 2 * width, subsampling=sampling)
    for quality in (1, 5, 30, 75, 100):
        for sampling in (0, 1, 2):
            files[f"jpeg-q{quality}-{sampling}.jpg"] = save(rgb, "JPEG", quality=quality, subsampling=sampling)
        hard = Image.fromarray((rng.integers(0, 2, (25, 40, 3)) * 255).astype(np.uint8))
        files[f"jpeg-hard-{quality}.jpg"] = save(hard, "JPEG", quality=quality)
        files[f"jpeg-optimised-{quality}.jpg"] = save(rgb, "JPEG", quality=quality, optimize=True)
        files[f"jpeg-progressive-{quality}.jpg"] = save(rgb, "JPEG", quality=quality, progressive=True)
        files[f"jpeg-grey-{quality}.jpg"] = save(rgb.convert("L"), "JPEG", quality=quality)
    ycc = save(cmyk, "JPEG", quality=80)
    files["jpeg-cmyk-adobe.jpg"] = ycc
    files["jpeg-ycck.jpg"] = ycc.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")
    marker = ycc.index(b"\xff\xee")
    files["jpeg-cmyk-plain.jpg"] = ycc[:marker] + ycc[marker + 16:]
    plain = save(rgb, "JPEG", quality=90)
    exif = Image.Exif()
    exif[0x112] = 6
    files["jpeg-orientation.jpg"] = save(rgb, "JPEG", quality=90, exif=exif)
    files["jpeg-exif-bad.jpg"] = plain[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + plain[2:]
    files["jpeg-restart.jpg"] = save(rgb, "JPEG", quality=90, restart_marker_blocks=3)
    files["jpeg-garbage-behind.jpg"] = plain + b"garbage" * 9
    files["jpeg-no-end.jpg"] = plain[:-2]
    files["jpeg-truncated.jpg"] = plain[: len(plain) * 2 // 3]
    files["jpeg-damaged.jpg"] = plain[: len(plain) // 2] + b"\x12\x34\x56" + plain[len(plain) // 2 + 3:]
    frame = plain.index(b"\xff\xc0")
    files["jpeg-lies.jpg"] = plain[: frame + 5] + b"\x07\x00\x07\x00" + plain[frame + 9:]
    files["jpeg-65500.jpg"] = plain[: frame + 5] + b"\xff\xdc\xff\xdc" + plain[frame + 9:]
    for kind in ("GIF", "BMP", "TIFF"):
        files[f"{kind}.JPEG"] = save(rgb, kind)
    files["empty.jpg"], files["text.jpg"] = b"", b"Dear diary, this is no image.\n"
    return files


# What is committed for the tests: one of each kind.
FIXTURES = ["png-*", "webp-rgb*", "webp-anim*", "webp-trunc*", "webp-alpha-2[12]x*", "webp-1x*", "webp-2x*", "webp-19x*", "jpeg-q1-*", "jpeg-q75-*",
            "jpeg-hard-30*", "jpeg-optimised-75*", "jpeg-progressive-75*", "jpeg-grey-75*", "jpeg-[a-gl-no-p]*[a-z].jpg", "jpeg-ycck*", "jpeg-1x*", "jpeg-5x*", "jpeg-65500*", "jpeg-restart*", "jpeg-trunc*", "*.JPEG", "empty*", "text*"]


def fixtures(folder):
    """Writes the committed files, and what Pillow makes of every file there."""
    for name, data in rare_files().items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in FIXTURES):
            (folder / name).write_bytes(data)
    expected = {}
    for file in sorted(f for f in folder.iterdir() if f.suffix != ".json"):
        try:
            image = Image.open(file).convert("RGB")
            expected[file.name] = [image.width, image.height, digest(np.asarray(image)), digest(center_crop(image, 24))]
        except Exception:
            expected[file.name] = None
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items())
    (folder / "expected.json").write_text("{\n" + lines + "\n}\n")


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def pillow(data, size):
    """(pixels, crop) as digests, or the error."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return digest(np.asarray(image)), digest(center_crop(image, size))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--formats", action="store_true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--fixtures", type=pathlib.Path, help="only write the files of the tests here, with Pillow's digests")
    args = parser.parse_args()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if args.fixtures:
        return fixtures(args.fixtures)
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or pathlib.Path(made)
        if args.formats:
            for name, data in rare_files().items():
                (folder / name).write_bytes(data)
        command = ["cargo", "bench", "--quiet", "--workspace", "--bench", "crop", "--", folder.resolve(), "--digests"]
        command += ["--size", str(args.size)]
        lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
        counts = {"equal": 0, "different": 0, "rejected by both": 0, "rejected by us": 0, "rejected by Pillow": 0}
        for line in map(json.loads, lines):
            theirs = pillow((folder / line["file"]).read_bytes(), args.size)
            if "error" in line:
                kind = "rejected by both" if isinstance(theirs, str) else "rejected by us"
            elif isinstance(theirs, str):
                kind = "rejected by Pillow"
            else:
                kind = "equal" if theirs == (line.get("pixels"), line.get("crop")) else "different"
            counts[kind] += 1
            if kind != "equal" and not args.quiet:
                print(f"{kind:18} {line['file']:28} {line.get('error', '')} | {theirs if isinstance(theirs, str) else ''}")
    versions = f"Pillow {Image.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}, libwebp {features.version('webp')}"
    print(", ".join(f"{n} {kind}" for kind, n in counts.items()), f"({versions})")
    sys.exit(1 if counts["different"] else 0)


if __name__ == "__main__":
    main()
