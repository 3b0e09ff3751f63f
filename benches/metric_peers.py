"""The parts of a score beside what others compute them with, in turns, with answers that are compared.

    python benches/metric_peers.py [--threads 1] [--rounds 2] [--rows inception,frechet,manifold] [--work /tmp/metric-peers]

`inception`: features of 256-pixel images in f32, beside torch-fidelity's network on PyTorch. `frechet`: the distance of two Gaussians
of width 2048, beside scipy's `sqrtm` (pytorch-fid, ADM) and numpy's symmetric eigenvalues. `manifold`: precision and recall of 50,000
samples against 10,000 reference images, beside ADM's evaluator written in numpy. `whole` (not among the default rows): archives of
images against statistics, ours alone: memory, and what is not spent in the network. Prints Markdown. Needs torch, torch-fidelity,
torchvision, safetensors, scipy and numpy; cargo builds our side (the benchmark `metrics`).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DIM = 2048
NEIGHBOURS = 3


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", default="inception,frechet,manifold")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--references", type=int, default=10_000)
    parser.add_argument("--whole", default="1000,2000")
    parser.add_argument("--work", type=Path, default=Path("/tmp/metric-peers"))
    return parser.parse_args()


def ours(args, *command):
    """One line of the benchmark `metrics`."""
    line = ["cargo", "bench", "--quiet", "--workspace", "--bench", "metrics", "--", *map(str, command)]
    run = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "RAYON_NUM_THREADS": str(args.threads)})
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def timed(work):
    """What the benchmark tells, of `work`."""
    cpu, start = time.process_time(), time.perf_counter()
    answer = work()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "answer": answer,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def table(args, title, mine, peers, rate=None):
    """A row for us and one for each peer: best of the rounds, by CPU seconds of one thread or by the wall's seconds of more."""
    clock = "cpu_seconds" if args.threads == 1 else "seconds"
    print(f"\n{title}, {args.threads} thread(s), best of {args.rounds}, by {clock}\n")
    print("| | seconds | " + ("images/s | " if rate else "") + "times as long as ours | peak, MB | answer |")
    print("|---|---|" + ("---|" if rate else "") + "---|---|---|")
    best = min(run[clock] for run in mine)
    for name, runs in [("ours", mine), *peers.items()]:
        seconds = min(run[clock] for run in runs)
        rates = f"{rate / seconds:.2f} | " if rate else ""
        print(f"| {name} | {', '.join(f'{run[clock]:.2f}' for run in runs)} | {rates}{seconds / best:.2f} "
              f"| {max(run['peak_bytes'] for run in runs) / 1e6:.0f} | {runs[-1]['answer']} |", flush=True)


def inception(args):
    import numpy as np
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    # Random weights in the published format.
    subprocess.run([sys.executable, HERE.parent / "eval/tests/torch_fidelity.py", args.work], check=True)
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(args.work / "zipped.pth"))
    images = np.random.default_rng(0).integers(0, 256, (args.images, 256, 256, 3), dtype=np.uint8)
    np.savez(args.work / "photos.npz", arr_0=images)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def theirs():
        return sum(network(part)[0].double().sum().item() for part in batch.split(16))

    network(batch[:1])
    mine, peers, last = [], [], []
    for _ in range(args.rounds):
        mine.append(ours(args, "inception", args.work / "weights.safetensors", args.work / "photos.npz"))
        peers.append(timed(theirs))
    network.to(memory_format=torch.channels_last)
    for _ in range(args.rounds):
        last.append(timed(theirs))
    table(args, f"Inception features of {args.images} images of 256 pixels", mine,
          {f"torch-fidelity, torch {torch.__version__}": peers, "the same, channels last": last}, args.images)


def covariance(rng, images, decay):
    """Mean and covariance of `images` vectors whose directions matter less and less, as Inception's do."""
    import numpy as np

    mix = rng.standard_normal((DIM, DIM)) * np.arange(1, DIM + 1) ** -decay
    rows = np.abs(rng.standard_normal((images, DIM)) @ mix.T * 0.1 + 0.4)
    return rows.mean(0), np.cov(rows, rowvar=False)


def frechet(args):
    import numpy as np
    import scipy.linalg

    rng = np.random.default_rng(0)
    for name, counts in [("full rank", (5000, 6000)), ("1,000 images on one side", (5000, 1000))]:
        (mu1, sigma1), (mu2, sigma2) = covariance(rng, counts[0], 0.5), covariance(rng, counts[1], 0.6)
        np.savez(args.work / "statistics.npz", mu1=mu1, sigma1=sigma1, mu2=mu2, sigma2=sigma2)

        def distance(trace):
            return float((mu1 - mu2) @ (mu1 - mu2) + np.trace(sigma1) + np.trace(sigma2) - 2 * trace)

        def sqrtm():
            return distance(np.trace(scipy.linalg.sqrtm(sigma1 @ sigma2)).real)

        def eigh():
            values, vectors = np.linalg.eigh(sigma1)
            root = vectors * np.sqrt(values.clip(0)) @ vectors.T
            return distance(np.sqrt(np.linalg.eigvalsh(root @ sigma2 @ root).clip(0)).sum())

        mine, peers = [], {"scipy sqrtm": [], "numpy eigh": []}
        for _ in range(args.rounds):
            mine.append(ours(args, "frechet", args.work / "statistics.npz"))
            peers["scipy sqrtm"].append(timed(sqrtm))
            peers["numpy eigh"].append(timed(eigh))
        table(args, f"Frechet distance, width {DIM}, {name}", mine, peers)


def manifold(args):
    import numpy as np

    rng = np.random.default_rng(0)
    mix = rng.standard_normal((64, DIM), dtype=np.float32)
    sets = {name: np.abs(rng.standard_normal((count, 64), dtype=np.float32) @ mix * 0.1 + shift)
            for name, count, shift in [("reference", args.references, 0.4), ("samples", args.samples, 0.42)]}
    np.savez(args.work / "features.npz", **sets)
    block = 10_000

    def distances(a, b):
        return np.maximum((a * a).sum(1)[:, None] - 2 * (a @ b.T) + (b * b).sum(1), 0)

    def radii(rows):
        found = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), block):
            mine = rows[start : start + block]
            nearest = [np.partition(distances(mine, rows[other : other + block]), NEIGHBOURS)[:, : NEIGHBOURS + 1]
                       for other in range(0, len(rows), block)]
            found[start : start + len(mine)] = np.partition(np.concatenate(nearest, 1), NEIGHBOURS)[:, NEIGHBOURS]
        return found

    def theirs():
        reference, samples = sets["reference"], sets["samples"]
        real, fake = radii(reference), radii(samples)
        precise, covered = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
        for i in range(0, len(reference), block):
            for j in range(0, len(samples), block):
                d = distances(reference[i : i + block], samples[j : j + block])
                precise[j : j + block] |= (d <= real[i : i + block, None]).any(0)
                covered[i : i + block] |= (d <= fake[None, j : j + block]).any(1)
        return {"precision": float(precise.mean()), "recall": float(covered.mean())}

    mine, peers = [], []
    for _ in range(args.rounds):
        mine.append(ours(args, "manifold", args.work / "features.npz"))
        peers.append(timed(theirs))
    table(args, f"Precision and recall, {args.references} x {args.samples} x {DIM}", mine, {"numpy": peers})


def whole(args):
    import numpy as np

    rng = np.random.default_rng(0)
    # Random weights in the published format, random images and statistics: the work is the same.
    subprocess.run([sys.executable, HERE.parent / "eval/tests/torch_fidelity.py", args.work], check=True)
    statistics = {}
    for suffix, dim in (("", DIM), ("_s", 2023)):
        root = rng.standard_normal((dim, dim)) * np.arange(1, dim + 1) ** -0.5
        statistics |= {f"mu{suffix}": rng.random(dim), f"sigma{suffix}": root @ root.T / dim}
    np.savez(args.work / "reference.npz", **statistics)
    print(f"\nFID and sFID of an npz of 256 x 256 pixels against statistics, {args.threads} thread(s)\n")
    print("| images | seconds | share of the network until the last image | after it, seconds | peak, MB |\n|---|---|---|---|---|")
    for count in map(int, args.whole.split(",")):
        np.savez(args.work / "many.npz", arr_0=rng.integers(0, 256, (count, 256, 256, 3), dtype=np.uint8))
        run = ours(args, "whole", *(args.work / name for name in ("weights.safetensors", "many.npz", "reference.npz")))
        told = run["answer"]
        share = told["in_network"] / (run["seconds"] - told["end"])
        print(f"| {count} | {run['seconds']:.1f} | {100 * share:.2f} % | {told['end']:.2f} | {run['peak_bytes'] / 1e6:.0f} |", flush=True)


def main():
    args = parse()
    # Before numpy is loaded.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.rows.split(","):
        {"inception": inception, "frechet": frechet, "manifold": manifold, "whole": whole}[name](args)


if __name__ == "__main__":
    main()
