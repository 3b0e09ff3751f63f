"""Frechet distances of the checkpoints of runs on Fashion-MNIST, and how often a classifier sees the class asked for.

    apt-get install dataset-fashion-mnist
    python benches/fashion_mnist.py fashion
    preprocess encode --dataset folder --source fashion --size 32 --vae none --out data/fashion
    python benches/fashion_mnist.py some --limit 1000
    preprocess encode --dataset folder --source some --size 32 --vae none --out data/some
    trainer fit --data data/fashion --config fashion-mnist --set .. --out runs/m2       (see BENCHMARKS.md)
    python benches/learning.py data/some runs/m2 runs/p2 [--bin target/release] [--samples 500] [--steps 20]

For every checkpoint, `trainer sample` draws images without guidance. Their distance to the data is measured in the features
of an Inception network with random weights (`eval fid --inception random:0`, against the thousand images of data/some: a
network of its size takes an hour for all) and in those of a small classifier that is trained here first, against all images.
Writes RUN/learning.jsonl (step, inception, classifier, accuracy), which `trainer plot --key` draws.
Needs torch, numpy and pillow.
"""

import argparse
import gzip
import json
import os
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

SIDE = 32


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--bin", default="target/release")
    parser.add_argument("--source", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args()


def dataset(source, part):
    def values(kind, header):
        with gzip.open(os.path.join(source, f"{part}-{kind}-ubyte.gz")) as file:
            return np.frombuffer(file.read()[header:], np.uint8)

    labels = values("labels-idx1", 8)
    small = values("images-idx3", 16).reshape(len(labels), 28, 28)
    images = np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.BICUBIC)) for image in small])
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1, torch.from_numpy(labels.astype(np.int64))


class Classifier(nn.Module):
    """Three convolutions and 64 features."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, 2, 1) for a, b in [(1, 16), (16, 32), (32, 64)]])
        self.inner, self.head = nn.Linear(64 * 16, 64), nn.Linear(64, 10)

    def features(self, x):
        for conv in self.convs:
            x = F.relu(conv(x))
        return torch.tanh(self.inner(x.flatten(1)))

    def forward(self, x):
        return self.head(self.features(x))


def trained(args):
    torch.manual_seed(0)
    (images, labels), (held_out, held_labels) = dataset(args.source, "train"), dataset(args.source, "t10k")
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(args.epochs):
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in images.split(1000)]).double().numpy()
        held = model.features(held_out).double().numpy()
        accuracy = (model(held_out).argmax(1) == held_labels).float().mean().item()
    print(f"classifier: {accuracy:.3f} of the held-out images; their distance to the data: "
          f"{frechet(features, held[:args.samples]):.3f}", flush=True)
    return model, features


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet(a, b):
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    half = root(first)
    mixed = np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * mixed)


def score(args, checkpoint, model, reference):
    with tempfile.TemporaryDirectory() as folder:
        samples = os.path.join(folder, "samples.npz")
        subprocess.run([os.path.join(args.bin, "trainer"), "sample", "--checkpoint", checkpoint, "--out", samples,
                        "--count", str(args.samples), "--sampler", "ddim", "--steps", str(args.steps), "--batch", "50"],
                       check=True, capture_output=True)
        answer = subprocess.run([os.path.join(args.bin, "eval"), "fid", "--images", samples, "--reference", args.reference,
                                 "--inception", "random:0", "--metrics", "fid", "--json"],
                                check=True, capture_output=True, text=True).stdout
        with np.load(samples) as file:
            images, labels = file["arr_0"], torch.from_numpy(file["arr_1"].astype(np.int64))
    grey = torch.from_numpy(images).float().mean(3)[:, None] / 127.5 - 1
    with torch.no_grad():
        features = model.features(grey)
        accuracy = (model.head(features).argmax(1) == labels).float().mean().item()
    return {"inception": json.loads(answer)["fid"], "classifier": frechet(reference, features.double().numpy()),
            "accuracy": accuracy}


def main():
    args = parse()
    model, reference = trained(args)
    for run in args.runs:
        checkpoints = os.path.join(run, "checkpoints")
        with open(os.path.join(run, "learning.jsonl"), "w") as out:
            for name in sorted(os.listdir(checkpoints)):
                if not name.startswith("step-") or not name[5:].isdigit():
                    continue
                line = {"step": int(name[5:]), **score(args, os.path.join(checkpoints, name), model, reference)}
                print(run, line, flush=True)
                out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
