"""Samples of the demo model by `trainer sample` beside the same loop in PyTorch eager, in turns: 250 steps of DDPM, f32, the CPU.

    preprocess encode --dataset demo --size 64 --vae tiny --out data/demo
    trainer fit --data data/demo --config demo --set run.num_steps=60 --out runs/demo
    python benches/sample_peer.py runs/demo [--trainer target/release/trainer] [--rounds 3] [--batch 8] [--threads 1]

The peer is the model of torch_step.py (of the demo's shape, with random weights) under no_grad, in the loop of ADM and DiT: learned
variance, both branches of the guidance in one batch. Its convolution kernels are computed in every pass, as in published code
(in two factors), or, `hoisted`, their spectra once a run. Ours is the time of 250 steps less that of one, with the start of the
program and the autoencoder in both. Prints a Markdown table of seconds: wall clock, and in brackets processor time, which other
work on the machine changes less. The best of the rounds. Needs torch and numpy.
"""

import argparse
import math
import os
import resource
import subprocess
import tempfile
import time
import types

import numpy as np
import torch

from torch_step import DiffuSsm

STEPS, TIMESTEPS, CLASSES, SIDE, CHANNELS = 250, 1000, 10, 8, 4


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run of the demo configuration, or one of its checkpoints")
    parser.add_argument("--trainer", default="target/release/trainer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def hoist(model, length):
    """Keeps the spectra of the kernels from one pass to the next."""
    for block in model.blocks:
        ssm = block.ssm
        ssm.spectra = torch.fft.rfft(ssm.kernel(length), n=2 * length)

        def forward(self, u):
            x = u.transpose(1, 2)
            spectrum = torch.fft.rfft(x, n=2 * length)
            both = torch.stack([spectrum * self.spectra[0], spectrum * self.spectra[1].conj()], dim=1)
            y = torch.fft.irfft(both, n=2 * length)[..., :length] + x.unsqueeze(1) * self.d.unsqueeze(-1)
            return y.flatten(1, 2).transpose(1, 2)

        ssm.forward = types.MethodType(forward, ssm)


class Schedule:
    """Linear betas, respaced to STEPS timesteps; the tables of one step as numbers."""

    def __init__(self):
        cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, TIMESTEPS))
        self.timesteps = [round(i * (TIMESTEPS - 1) / (STEPS - 1)) for i in range(STEPS)]
        self.now = cumprod[self.timesteps]
        self.before = np.append(1.0, self.now[:-1])
        self.betas = 1 - self.now / self.before
        variance = self.betas * (1 - self.before) / (1 - self.now)
        self.log_low = np.log(np.append(variance[1], variance[1:]))
        self.coef1 = self.betas * np.sqrt(self.before) / (1 - self.now)
        self.coef2 = (1 - self.before) * np.sqrt(1 - self.betas) / (1 - self.now)


@torch.no_grad()
def sample(model, schedule, batch, scale):
    x = torch.randn(batch, CHANNELS, SIDE, SIDE)
    label = torch.arange(batch) % CLASSES
    if scale != 1:
        label = torch.cat([label, torch.full((batch,), CLASSES)])
    for k in reversed(range(STEPS)):
        t = torch.full((len(label),), schedule.timesteps[k])
        out = model(x if scale == 1 else torch.cat([x, x]), t, label)
        eps, v = out.chunk(2, dim=1)
        if scale != 1:
            conditional, null = eps.chunk(2)
            eps, v = null + scale * (conditional - null), v[:batch]
        now = schedule.now[k]
        start = math.sqrt(1 / now) * x - math.sqrt(1 / now - 1) * eps
        mean = schedule.coef1[k] * start + schedule.coef2[k] * x
        fraction = (v + 1) / 2
        log_variance = fraction * math.log(schedule.betas[k]) + (1 - fraction) * schedule.log_low[k]
        x = mean + (torch.exp(0.5 * log_variance) * torch.randn_like(x) if k else 0)
    return x


def theirs(model, schedule, batch, scale):
    wall, processor = time.perf_counter(), time.process_time()
    sample(model, schedule, batch, scale)
    return time.perf_counter() - wall, time.process_time() - processor


def command(args, scale, steps, out):
    def processor():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    settings = {"checkpoint": args.checkpoint, "count": args.batch, "batch": args.batch, "steps": steps,
                "cfg": scale, "threads": args.threads, "out": out}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    wall, before = time.perf_counter(), processor()
    subprocess.run([args.trainer, "sample", *words], check=True, capture_output=True)
    return time.perf_counter() - wall, processor() - before


def ours(args, scale):
    with tempfile.TemporaryDirectory() as folder:
        times = [command(args, scale, steps, os.path.join(folder, f"{steps}.png")) for steps in (1, STEPS)]
    return tuple((many - one) * STEPS / (STEPS - 1) for one, many in zip(*times))


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    schedule = Schedule()
    published = DiffuSsm(128, 4, False, state=16, ratio=2, channels=CHANNELS, classes=CLASSES)
    hoisted = DiffuSsm(128, 4, False, state=16, ratio=2, channels=CHANNELS, classes=CLASSES)
    with torch.no_grad():
        hoist(hoisted, SIDE * SIDE)
    print(f"batch {args.batch}, {args.threads} threads, PyTorch {torch.__version__}\n")
    print("| guidance | ours | PyTorch, hoisted kernels | ratio | PyTorch, kernels in every pass | ratio |\n|---|---|---|---|---|---|")
    for scale in (1, 1.5):
        rounds = [(ours(args, scale), *(theirs(model, schedule, args.batch, scale) for model in (hoisted, published)))
                  for _ in range(args.rounds)]
        # Of each program the best wall-clock time and the best processor time.
        best = [[min(round[which][clock] for round in rounds) for clock in (0, 1)] for which in (0, 1, 2)]
        text = [f"{wall:.2f} ({processor:.2f})" for wall, processor in best]
        ratio = [f"{best[0][0] / other[0]:.2f} ({best[0][1] / other[1]:.2f})" for other in best[1:]]
        name = "none" if scale == 1 else f"{scale}"
        print(f"| {name} | {text[0]} | {text[1]} | {ratio[0]} | {text[2]} | {ratio[1]} |", flush=True)


if __name__ == "__main__":
    main()
