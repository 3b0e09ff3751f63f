#!/usr/bin/env python3
"""Our loader of latents beside other people's, on the same latents, in one run.

    python benches/loader_peers.py [--folder DIR] [--samples 20000] [--rounds 3] [--json FILE]

Needs numpy, torch and lmdb, and the programs of `cargo build --release --workspace --bins --examples`.

The latents are synthetic: low-pass noise plus white noise with the scale of the Stable Diffusion autoencoder's, 4x32x32,
rounded to f16; log-variances are smooth around -18. Every loader gives shuffled batches of 256 f32 latents with their
labels, one epoch, in one thread; rates are samples per second of processor time, the best of a few rounds. The peers are
loaded through torch's DataLoader without workers, as their users do:

- LMDB, one f16 value a key;
- a NumPy array of f16, mapped, gathered a batch at a time;
- a folder as EDM2 writes it: one f32 .npy of mean and standard deviation an image, a fresh sample at each visit.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPE = (4, 32, 32)
BATCH = 256


def generate(folder, samples):
    """x.npy, y.npy and logvar.npy"""
    random = np.random.default_rng(0)
    fy, fx = np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)[None]
    low_pass = 1.0 / (1.0 + (fy**2 + fx**2) / 0.06**2)

    def smooth(count):
        white = random.standard_normal((count, *SHAPE), dtype=np.float32)
        low = np.fft.irfft2(np.fft.rfft2(white) * low_pass, s=SHAPE[1:])
        return low / low.std()

    means, labels, logvars = [], [], []
    for start in range(0, samples, 1000):
        count = min(1000, samples - start)
        white = random.standard_normal((count, *SHAPE), dtype=np.float32)
        means.append(((0.8 * smooth(count) + 0.6 * white) * (0.9 / 0.18215)).astype(np.float16))
        labels.append(random.integers(0, 1000, count))
        white = random.standard_normal((count, *SHAPE), dtype=np.float32)
        logvars.append((-18 + 1.5 * smooth(count) + 0.3 * white).astype(np.float16))
    for name, parts in (("x", means), ("y", labels), ("logvar", logvars)):
        np.save(folder / f"{name}.npy", np.concatenate(parts))


def size_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# Peers: make(folder, means, labels, logvars), then epoch(folder, samples), which gives the batches.


def make_lmdb(folder, means, labels, _):
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 34) as database, database.begin(write=True) as transaction:
        for i, (mean, label) in enumerate(zip(means, labels)):
            transaction.put(b"%08d" % i, np.int64(label).tobytes() + mean.tobytes())


def lmdb_dataset(folder, samples):
    import lmdb
    import torch

    class Values(torch.utils.data.Dataset):
        transaction = None

        def __len__(self):
            return samples

        def __getitem__(self, i):
            if self.transaction is None:
                database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
                self.transaction = database.begin(buffers=True)
            value = self.transaction.get(b"%08d" % i)
            mean = np.frombuffer(value, np.float16, 4096, 8).astype(np.float32).reshape(SHAPE)
            return torch.from_numpy(mean), int.from_bytes(value[:8], "little")

    return Values(), None


def make_npy(folder, means, labels, _):
    np.save(folder / "x.npy", means)
    np.save(folder / "y.npy", labels)


def npy_dataset(folder, samples):
    import torch

    class Array(torch.utils.data.Dataset):
        def __init__(self):
            self.means = np.load(folder / "x.npy", mmap_mode="r")
            self.labels = np.load(folder / "y.npy")

        def __len__(self):
            return samples

        def __getitems__(self, indices):
            indices = np.asarray(indices)
            return torch.from_numpy(self.means[indices]).float(), torch.from_numpy(self.labels[indices])

    return Array(), lambda batch: batch


def make_edm2(folder, means, labels, logvars):
    for i, (mean, logvar) in enumerate(zip(means, logvars)):
        subfolder = folder / f"{i // 1000:05d}"
        subfolder.mkdir(exist_ok=True)
        std = np.exp(0.5 * logvar.astype(np.float32))
        np.save(subfolder / f"img-mean-std-{i:08d}.npy", np.concatenate([mean.astype(np.float32), std]))
    np.save(folder / "labels.npy", labels)


def edm2_dataset(folder, samples):
    import torch

    class Files(torch.utils.data.Dataset):
        labels = np.load(folder / "labels.npy")

        def __len__(self):
            return samples

        def __getitem__(self, i):
            both = np.load(folder / f"{i // 1000:05d}" / f"img-mean-std-{i:08d}.npy")
            noise = np.random.standard_normal(SHAPE).astype(np.float32)
            return torch.from_numpy(both[:4] + both[4:] * noise), int(self.labels[i])

    return Files(), None


PEERS = {
    "lmdb": (make_lmdb, lmdb_dataset),
    "npy_gather": (make_npy, npy_dataset),
    "edm2_folder": (make_edm2, edm2_dataset),
}
OURS = {  # name: arguments of the import, of the bench
    "mean_zstd": (("mean", "bf16", "zstd", "1"), ()),
    "mean_raw": (("mean", "bf16", "none", "1"), ()),
    "moments": (("moments", "bf16", "zstd", "2"), ()),
    "moments_one_view": (("moments", "bf16", "zstd", "1"), ()),
    "mean_zstd_ram": (("mean", "bf16", "zstd", "1"), ("--cache", "ram")),
}
COMPARED = [  # ours, the peer
    ("mean_zstd", "lmdb"),
    ("mean_raw", "npy_gather"),
    ("moments", "edm2_folder"),
]


def peer_epoch(name, folder, samples):
    """The better of two epochs, in this process: samples per second of processor time"""
    import torch

    torch.set_num_threads(1)
    dataset, collate = PEERS[name][1](folder, samples)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, shuffle=True, drop_last=True, collate_fn=collate
    )
    best = 0
    for _ in range(2):
        started, count = time.process_time(), 0
        for latents, labels in loader:
            assert latents.dtype == torch.float32 and latents.shape[1:] == SHAPE
            count += len(labels)
        best = max(best, count / (time.process_time() - started))
    return best


def our_epoch(folder, options):
    """The better of two epochs"""
    command = [ROOT / "target/release/shards", "bench", folder, "--batch", str(BATCH), "--epochs", "2", "--json", "--quiet"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return max(json.loads(done.stdout)["samples_per_cpu_second_by_epoch"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, help="keep the data here")
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        name, folder = arguments.peer
        print(peer_epoch(name, pathlib.Path(folder), arguments.samples))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = [folder / f"{name}.npy" for name in ("x", "y", "logvar")]
        if not all(path.exists() for path in arrays):
            generate(folder, arguments.samples)
        for name, (make, _) in PEERS.items():
            if not (folder / name).exists():
                (folder / name).mkdir()
                make(folder / name, *(np.load(path, mmap_mode="r") for path in arrays))
        for name, (settings, _) in OURS.items():
            if not (folder / name / "dataset.json").exists():
                program = ROOT / "target/release/examples/import_npy"
                subprocess.run([program, *arrays, folder / name, *settings], check=True, stdout=subprocess.DEVNULL)
        # Rounds go over all, so that what else the machine does hits all alike.
        rates = {name: [] for name in [*PEERS, *OURS]}
        for _ in range(arguments.rounds):
            for name in PEERS:
                command = [sys.executable, __file__, "--samples", str(arguments.samples), "--peer", name, folder / name]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rates[name].append(float(done.stdout))
            for name, (_, options) in OURS.items():
                rates[name].append(our_epoch(folder / name, options))
        bytes_per_sample = {name: size_of(folder / name) / arguments.samples for name in rates}
        print(f"{'':18} {'best':>10} {'median':>10}   samples per second of processor time")
        for name, values in rates.items():
            size = bytes_per_sample[name]
            print(f"{name:18} {max(values):10,.0f} {np.median(values):10,.0f}   {size:8,.0f} bytes a sample")
        for ours, peer in COMPARED:
            ratio = np.median(rates[ours]) / np.median(rates[peer])
            print(f"{ours} / {peer}: {ratio:.2f} times the rate, {bytes_per_sample[ours] / bytes_per_sample[peer]:.2f} times the bytes")
        if arguments.json:
            arguments.json.write_text(json.dumps({"rates": rates, "bytes_per_sample": bytes_per_sample}, indent=1))


if __name__ == "__main__":
    main()
