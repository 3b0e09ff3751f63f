"""Would another coding of the latents be smaller than byte planes and zstd? Tries predictions, bit planes and pcodec on real latents.

    preprocess encode --dataset folder --source PHOTOS --vae tiny --dtype f32 --out LATENTS
    shards export LATENTS --out latents.npz
    pip install numpy zstandard pcodec
    python benches/store_choices.py latents.npz [--limit 400]

Each sample is coded on its own, as in a shard with one row a frame. The house promises that `zstd -d` makes a safetensors file of a
shard. No transform below is undone by zstd: those that win would break the promise, and are shown to say what it costs.
"""

import argparse

import numpy as np
import zstandard
from pcodec import ChunkConfig, standalone


def planes(values):
    """Byte planes, the highest byte first, of each row of an unsigned array [n, k]."""
    width = values.dtype.itemsize
    parts = values.view(np.uint8).reshape(*values.shape, width)
    return [[row[:, i].tobytes() for i in reversed(range(width))] for row in parts]


def zstd_size(rows, level=1):
    """Bytes when every plane is a block of its own (13 bytes of frame a row are ours in both)."""
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=False, write_checksum=False)
    total = 0
    for row in rows:
        stream = compressor.compressobj()
        for i, plane in enumerate(row):
            total += len(stream.compress(plane))
            total += len(stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)) if i + 1 < len(row) else 0
        total += len(stream.flush())
    return total / len(rows)


def bit_planes(values):
    """The bits of equal weight of a row side by side, eight bits a byte."""
    bits = values.dtype.itemsize * 8
    rows = []
    for row in values:
        parts = [np.packbits((row >> np.array(b, row.dtype)).astype(np.uint8) & 1).tobytes() for b in reversed(range(bits))]
        rows.append(parts)
    return rows


def ordered(values):
    """Floats' bits in the order of their values: what differences of neighbours need. Bytes are integers already."""
    if values.dtype == np.uint8:
        return values ^ np.uint8(0x80)
    bits = values.dtype.itemsize * 8
    sign = np.array(1 << (bits - 1), values.dtype)
    return np.where(values & sign, ~values, values | sign)


def zigzag(values):
    """Small differences of both signs to small numbers."""
    signed = values.view(f"i{values.dtype.itemsize}")
    return ((signed << 1) ^ (signed >> (values.dtype.itemsize * 8 - 1))).view(values.dtype)


def predicted(values, shape, kind):
    """Residuals, modulo the type, of predicting each value from its neighbours in its channel."""
    x = ordered(values).reshape(-1, *shape)
    left, up, corner = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    left[..., 1:], up[..., 1:, :], corner[..., 1:, 1:] = x[..., :-1], x[..., :-1, :], x[..., :-1, :-1]
    if kind == "left":
        guess = left
    elif kind == "up":
        guess = up
    elif kind == "linear":
        guess = left + up - corner
    elif kind == "mean":
        guess = ((left.astype(np.uint64) + up) // 2).astype(x.dtype)
    else:
        a, b, c = (v.astype(np.int64) for v in (left, up, corner))
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        guess = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c)).astype(x.dtype)
    return zigzag(x - guess).reshape(values.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("latents")
    parser.add_argument("--limit", type=int, default=400)
    args = parser.parse_args()
    archive = np.load(args.latents)
    name = next(n for n in ("mean", "latents", "arr_0", *archive.files) if n in archive.files)
    mean = archive[name].astype(np.float32)
    mean = mean.reshape(-1, *mean.shape[-3:])[: args.limit]
    shape = mean.shape[1:]
    print(f"{len(mean)} latents of {shape}; bytes of the mean alone, a sample a frame; minus: smaller than byte planes, zstd 1")
    flat = mean.reshape(len(mean), -1)
    bf16 = (flat.view(np.uint32) + 0x7FFF + ((flat.view(np.uint32) >> 16) & 1) >> 16).astype(np.uint16)
    scale = np.abs(mean).max((2, 3), keepdims=True) / 127
    int8 = np.round(mean / np.maximum(scale, 1e-30)).astype(np.int8).reshape(len(mean), -1).view(np.uint8)
    for dtype, values in (("f32", flat.view(np.uint32)), ("f16", flat.astype(np.float16).view(np.uint16)), ("bf16", bf16),
                          ("int8", int8)):
        base = zstd_size(planes(values))
        results = {"byte planes, zstd 1": base, "raw": values.shape[1] * values.dtype.itemsize}
        for level in (3, 9, 19):
            results[f"byte planes, zstd {level}"] = zstd_size(planes(values), level)
        results["no planes, zstd 1"] = zstd_size([[row.tobytes()] for row in values])
        results["bit planes, zstd 1"] = zstd_size(bit_planes(values))
        results["ordered bits, byte planes, zstd 1"] = zstd_size(planes(ordered(values)))
        for kind in ("left", "up", "linear", "mean", "paeth"):
            results[f"{kind} prediction, byte planes, zstd 1"] = zstd_size(planes(predicted(values, shape, kind)))
        typed = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "int8": np.uint16}[dtype]
        numbers = ordered(values) if dtype == "bf16" else values.astype(typed) if dtype == "int8" else values.view(typed)
        for level in (4, 8):
            config = ChunkConfig(compression_level=level)
            results[f"pcodec {level}"] = np.mean([len(standalone.simple_compress(row, config)) for row in numbers])
        for what, size in results.items():
            print(f"{dtype:5} {what:38} {size:9.1f} {100 * (size / base - 1):+7.2f} %")


if __name__ == "__main__":
    main()
