"""Encoding with Stable Diffusion's autoencoder on the CPU in f32: us beside diffusers, which take turns.

    python benches/random_sd_vae.py /tmp/sd-vae
    python benches/vae_diffusers.py /tmp/sd-vae [--size 256] [--images 2] [--threads 1] [--repeats 4] [--channels-last]

Prints images per CPU-second and per second, best and median. Needs torch and diffusers; cargo builds our side (the benchmark `vae`).
"""

import argparse
import json
import os
import subprocess
import time

import numpy as np
import torch
from diffusers import AutoencoderKL

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("vae")
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--images", type=int, default=2)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--repeats", type=int, default=4)
parser.add_argument("--channels-last", action="store_true")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.set_grad_enabled(False)
vae = AutoencoderKL.from_pretrained(args.vae).eval()
batch = torch.rand(args.images, 3, args.size, args.size) * 2 - 1
if args.channels_last:
    vae, batch = vae.to(memory_format=torch.channels_last), batch.to(memory_format=torch.channels_last)
vae.encode(batch[:1])
command = ["cargo", "bench", "--quiet", "--workspace", "--bench", "vae", "--", "--vae", args.vae, "--repeats", "2"]
command += ["--size", str(args.size), "--images", str(args.images)]
ours, theirs = [], []
for _ in range(args.repeats):
    run = subprocess.run(command, capture_output=True, check=True, text=True,
                         env={**os.environ, "RAYON_NUM_THREADS": str(args.threads)})
    line = json.loads(run.stdout.splitlines()[-1])
    ours.append((args.images / line["cpu_seconds"], args.images / line["seconds"]))
    cpu, wall = time.process_time(), time.perf_counter()
    vae.encode(batch)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    theirs.append((args.images / cpu, args.images / wall))
ours, theirs = np.array(ours), np.array(theirs)
print(f"{args.images} images of {args.size} pixels, {args.threads} threads; images per CPU-second and per second, best (median)")
for name, rates in (("ours", ours), (f"diffusers, torch {torch.__version__}", theirs)):
    best, median = rates.max(0), np.median(rates, 0)
    ratio, typical = ours.max(0) / best, np.median(ours, 0) / median
    print(f"{name:34} {best[0]:.4f} ({median[0]:.4f})  {best[1]:.4f} ({median[1]:.4f})   "
          f"ours is {ratio[0]:.2f} ({typical[0]:.2f})  {ratio[1]:.2f} ({typical[1]:.2f}) times as fast")
