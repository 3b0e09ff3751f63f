"""Trains the embedded tiny autoencoder and writes it in diffusers' layout.

    pip install -r requirements.txt
    apt-get install lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers
    python make.py --minutes 30                  # one core; half demo images, half photograph crops
    python make.py --minutes 50 --start . --lr 1e-3   # goes on from the weights in this folder
    python make.py --classifier ../../../eval/assets/demo-classifier   # the judge of the quickstart's samples

The network is diffusers' AutoencoderKL with small widths. Two things make it learn in an hour of one core: every block
starts as the identity, and the loss sees 8x8 averages in opponent colours, without which green and purple are lost.
After training each latent channel is brought to zero mean and unit deviation; scale and shift are folded into
quant_conv and post_quant_conv, so `scaling_factor` is 1.
"""

import argparse
import glob
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file

import classifier
import demo

PHOTOGRAPHS = [
    "/usr/share/backgrounds/*.jpg",
    "/usr/share/backgrounds/mate/nature/*.jpg",
    "/usr/share/wallpapers/*/contents/images/2560x1600.jpg",
]
SHORT_SIDES = (640, 400, 250, 160)
HELD_OUT = 6  # every n-th photograph is never trained on
CONFIG = dict(
    in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32, 64, 64), layers_per_block=1,
    norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=1.0, sample_size=256)


def photographs():
    """Training pyramids and held-out pyramids: lists of u8 [h, w, 3]."""
    files = sorted({f for pattern in PHOTOGRAPHS for f in glob.glob(pattern)})
    train, held = [], []
    for i, name in enumerate(files):
        image = Image.open(name).convert("RGB")
        for side in SHORT_SIDES:
            scale = side / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            (held if i % HELD_OUT == 0 else train).append(np.asarray(image.resize(size, Image.BICUBIC)))
    print(f"{len(files)} photographs, {len(held) // len(SHORT_SIDES)} held out", flush=True)
    return train, held, [n for i, n in enumerate(files) if i % HELD_OUT == 0]


def crop(rng, pyramid, side):
    image = pyramid[rng.integers(len(pyramid))]
    y, x = rng.integers(image.shape[0] - side + 1), rng.integers(image.shape[1] - side + 1)
    return image[y:y + side, x:x + side]


def unit(images):
    """u8 [n, s, s, 3] -> f32 [n, 3, s, s] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load(folder):
    vae = AutoencoderKL(**CONFIG)
    state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    vae.load_state_dict({k: v.float() for k, v in state.items()})
    return vae


def initialised():
    vae = AutoencoderKL(**CONFIG)
    for name, module in vae.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            fan_in = module.weight[0].numel()
            torch.nn.init.normal_(module.weight, std=fan_in**-0.5)
            torch.nn.init.zeros_(module.bias)
        if name.endswith(("conv2", "to_out.0")):
            torch.nn.init.zeros_(module.weight)
    with torch.no_grad():
        vae.quant_conv.weight[4:].zero_()
        vae.quant_conv.bias[4:].fill_(-5.0)
    return vae


def opponent(x):
    """Luminance, 3 x orange-blue, 6 x green-purple of 8x8 averages."""
    r, g, b = F.avg_pool2d(x, 8).unbind(1)
    return torch.stack([(r + g + b) / 3, 3 * (r - b) / 2, 6 * (2 * g - r - b) / 4], 1)


def loss_of(x, out, mean, logvar, colour):
    total = (out - x).abs().mean() + 2 * (out - x).square().mean()
    for scale in (1, 2, 4):
        a, b = (F.avg_pool2d(v, scale) if scale > 1 else v for v in (x, out))
        d = a - b
        total = total + 0.5 / 3 * (d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean())
    small = F.avg_pool2d(out, 8) - F.avg_pool2d(x, 8)
    total = total + small.abs().mean() + 5 * small.square().mean()
    target = opponent(x)
    total = total + (opponent(out) - target).square().mean() + (colour - target).square().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return total + 3e-4 * kl


def psnr(vae, images):
    with torch.no_grad():
        values = []
        for x in unit(images).split(16):
            out = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            values += (10 * torch.log10(4 / (out - x).square().mean((1, 2, 3)))).tolist()
    return sum(values) / len(values)


def train(args, train_photos, checks):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    vae = load(args.start) if args.start else initialised()
    head = torch.nn.Conv2d(4, 3, 1)
    params = [{"params": vae.parameters(), "lr": args.lr}, {"params": head.parameters(), "lr": 1e-2}]
    optimizer = torch.optim.AdamW(params, betas=(0.9, 0.99), weight_decay=1e-4)
    base = [g["lr"] for g in optimizer.param_groups]
    ema = {k: v.clone() for k, v in vae.state_dict().items()}
    sets = {64: demo.images(1, 6000, 64)[0], 128: demo.images(2, 1200, 128)[0]}
    print("training", flush=True)
    start, step, saved = time.time(), 0, 0.0
    while (spent := (time.time() - start) / 60) < args.minutes:
        side, count = ((64, 8), (128, 2))[step % 2]
        picks = sets[side][rng.integers(len(sets[side]), size=count // 2)]
        batch = np.stack(list(picks) + [crop(rng, train_photos, side) for _ in range(count // 2)])
        if rng.random() < 0.5:
            batch = batch[:, :, ::-1]
        x = unit(batch)
        rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / args.minutes)))
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * rate
        posterior = vae.encode(x).latent_dist
        z = posterior.sample()
        loss = loss_of(x, vae.decode(z).sample, posterior.mean, posterior.logvar, head(z))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for key, value in vae.state_dict().items():
                ema[key].lerp_(value, 0.005)
        if spent - saved > 4 or spent > args.minutes - 0.02:
            saved = spent
            live = {k: v.clone() for k, v in vae.state_dict().items()}
            vae.load_state_dict(ema)
            scores = {name: round(psnr(vae, images), 2) for name, images in checks.items()}
            torch.save(ema, args.snapshot)
            vae.load_state_dict(live)
            print(f"{spent:.1f} min, step {step}, loss {loss.item():.4f}, {scores}", flush=True)
    vae.load_state_dict(ema)
    return vae


def normalise(vae, images):
    """Folds per-channel mean 0 and deviation 1 of the latents into the two 1x1 convolutions."""
    with torch.no_grad():
        z = torch.cat([vae.encode(x).latent_dist.mean for x in unit(images).split(16)])
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        quant, post = vae.quant_conv, vae.post_quant_conv
        quant.weight[:4] /= std[:, None, None, None]
        quant.bias[:4] = (quant.bias[:4] - mean) / std
        quant.bias[4:] -= 2 * std.log()
        post.bias += post.weight[:, :, 0, 0] @ mean
        post.weight *= std[None, :, None, None]
    return mean.tolist(), std.tolist()


def export(vae, out, checks):
    # diffusers writes the attention of a single head with the new names: to_q, to_k, to_v, to_out.0
    state = {k: v.half().contiguous() for k, v in vae.state_dict().items()}
    save_file(state, os.path.join(out, "diffusion_pytorch_model.safetensors"), metadata={"format": "pt"})
    config = dict(_class_name="AutoencoderKL", act_fn="silu", **{k: CONFIG[k] for k in sorted(CONFIG)})
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    vae.load_state_dict({k: v.float() for k, v in state.items()})
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    test = np.stack([(7 * x + 13 * y + 29 * c + 5 * ((x * y) % 31) + 3 * ((x * x + y) % 17)) % 256 for c in range(3)], -1)
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(unit(test[None].astype(np.uint8))))
        decoded = vae.decode(moments[:, :4]).sample
        latents = {n: vae.encode(unit(i)).latent_dist for n, i in checks.items()}
    golden = dict(
        image="I(64,64)", moments=moments.flatten().tolist(), decoded_row_0=decoded[0, :, 0].flatten().tolist(),
        decoded_mean=decoded.mean((2, 3)).flatten().tolist())
    with open(os.path.join(out, "golden.json"), "w") as f:
        json.dump(golden, f)
        f.write("\n")
    for name, images in checks.items():
        z = latents[name]
        print(name, f"PSNR {psnr(vae, images):.2f} dB, mean", [round(v, 3) for v in z.mean.mean((0, 2, 3)).tolist()],
              "std", [round(v, 3) for v in z.mean.std((0, 2, 3)).tolist()], f"posterior std {z.std.mean():.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--snapshot", default="tiny-vae.pt", help="the averaged weights so far")
    parser.add_argument("--start", help="folder of an exported autoencoder to go on from")
    parser.add_argument("--classifier", help="train the classifier of demo images into this folder, and nothing else")
    parser.add_argument("--export-snapshot", action="store_true", help="only export what --snapshot holds")
    parser.add_argument("--out", default=".")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.classifier:
        return classifier.make(load(args.out), args.classifier)
    train_photos, held, names = photographs()
    print("held out:", [os.path.relpath(n, "/usr/share") for n in names], flush=True)
    rng = np.random.default_rng(7)
    checks = {
        "demo 64": demo.images(100, 60, 64)[0],
        "demo 128": demo.images(101, 40, 128)[0],
        "photographs 128": np.stack([crop(rng, held, 128) for _ in range(60)]),
    }
    if args.export_snapshot:
        vae = AutoencoderKL(**CONFIG)
        vae.load_state_dict(torch.load(args.snapshot))
    else:
        vae = train(args, train_photos, checks)
    mixed = np.concatenate([demo.images(3, 300, 128)[0], np.stack([crop(rng, train_photos, 128) for _ in range(300)])])
    print("normalised by", normalise(vae.eval(), mixed))
    export(vae, args.out, checks)


if __name__ == "__main__":
    main()
