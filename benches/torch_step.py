"""One DiffuSSM training step (forward, backward, AdamW, EMA) in PyTorch eager on the CPU, f32: the peer of `trainer bench`.

    python benches/torch_step.py --threads 2 [--dim 384] [--depth 4] [--side 32] [--batch 4] [--steps 7] [--naive]

The model is the one of `trainer/src/model`, written the way a PyTorch user would write it: torch.fft for the long
convolution, the factored kernel generation (a Vandermonde product in two factors), autograd, fused AdamW. With
`--naive` the kernels come from the whole Vandermonde matrix, as in the published code of S4D.
Prints one JSON object: best and median milliseconds a step, those of the optimiser alone, the most memory held.
"""

import argparse
import json
import math
import resource
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class BidirectionalS4d(nn.Module):
    """Two banks of diagonal state space models, (B, L, D) -> (B, L, 2D)."""

    def __init__(self, dim, state, naive):
        super().__init__()
        self.naive = naive
        half = state // 2
        self.log_dt = nn.Parameter(torch.rand(2, dim) * math.log(100.0) + math.log(1e-3))
        self.log_a_real = nn.Parameter(torch.full((2, dim, half), math.log(0.5)))
        self.a_imag = nn.Parameter(math.pi * torch.arange(half).float().expand(2, dim, half).clone())
        self.b = nn.Parameter(torch.view_as_real(torch.ones(2, dim, half, dtype=torch.cfloat)).clone())
        self.c = nn.Parameter(torch.view_as_real(torch.randn(2, dim, half, dtype=torch.cfloat)).clone())
        self.d = nn.Parameter(torch.randn(2, dim))

    def kernel(self, length):
        a = torch.complex(-self.log_a_real.exp(), self.a_imag)
        z = a * self.log_dt.exp().unsqueeze(-1)
        gain = torch.view_as_complex(self.c) * torch.view_as_complex(self.b) * (z.exp() - 1) / a
        if self.naive:
            vandermonde = torch.exp(z.unsqueeze(-1) * torch.arange(length))
            return 2 * torch.einsum("kdn,kdnl->kdl", gain, vandermonde).real
        inner = 1 << (length.bit_length() // 2)
        rows = torch.arange(length // inner) * inner
        left = gain.unsqueeze(-2) * torch.exp(z.unsqueeze(-2) * rows.unsqueeze(-1))
        right = torch.exp(z.unsqueeze(-1) * torch.arange(inner))
        product = torch.cat([left.real, -left.imag], -1) @ torch.cat([right.real, right.imag], -2)
        return 2 * product.flatten(-2)

    def forward(self, u):
        x = u.transpose(1, 2)
        length = x.shape[-1]
        spectrum = torch.fft.rfft(x, n=2 * length)
        kernel = torch.fft.rfft(self.kernel(length), n=2 * length)
        both = torch.stack([spectrum * kernel[0], spectrum * kernel[1].conj()], dim=1)
        y = torch.fft.irfft(both, n=2 * length)[..., :length] + x.unsqueeze(1) * self.d.unsqueeze(-1)
        return y.flatten(1, 2).transpose(1, 2)


def gelu(x):
    return F.gelu(x, approximate="tanh")


class Block(nn.Module):
    def __init__(self, dim, state, ratio, naive):
        super().__init__()
        self.ratio = ratio
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mod = nn.Linear(dim, 2 * dim)
        self.w0, self.w_up = nn.Linear(dim, dim), nn.Linear(dim, ratio * dim)
        self.ssm = BidirectionalS4d(dim, state, naive)
        self.w_down = nn.Parameter(torch.randn(ratio, 2 * dim // ratio, 2 * dim) * 0.02)
        self.b_down = nn.Parameter(torch.zeros(ratio, 2 * dim // ratio))
        self.w1, self.w2, self.w3 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, tokens, c):
        batch, count, dim = tokens.shape
        shift, scale = self.mod(F.silu(c)).chunk(2, dim=1)
        h = self.norm(tokens) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
        u = gelu(self.w_up(gelu(self.w0(h)))).reshape(batch, count * self.ratio, dim)
        y = self.ssm(u).reshape(batch, count, self.ratio, 2 * dim)
        down = gelu(torch.einsum("bjmi,moi->bjmo", y, self.w_down) + self.b_down).reshape(batch, count, 2 * dim)
        return tokens + self.w3(gelu(self.w2(down)) * gelu(self.w1(h)))


class DiffuSsm(nn.Module):
    def __init__(self, dim, depth, naive, state=64, ratio=2, channels=4, classes=1000):
        super().__init__()
        self.ratio = ratio
        self.embed = nn.Linear(ratio * channels, dim)
        self.time1, self.time2 = nn.Linear(256, dim), nn.Linear(dim, dim)
        self.label = nn.Embedding(classes + 1, dim)
        self.blocks = nn.ModuleList([Block(dim, state, ratio, naive) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.final_mod, self.final = nn.Linear(dim, 2 * dim), nn.Linear(dim, ratio * 2 * channels)

    def forward(self, x, t, label):
        batch, channels, side, _ = x.shape
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
        angle = t[:, None].float() * frequencies
        c = self.time2(F.silu(self.time1(torch.cat([angle.cos(), angle.sin()], -1)))) + self.label(label)
        tokens = x.permute(0, 2, 3, 1).reshape(batch, side * side // self.ratio, self.ratio * channels)
        tokens = self.embed(tokens)
        for block in self.blocks:
            tokens = block(tokens, c)
        shift, scale = self.final_mod(F.silu(c)).chunk(2, dim=1)
        out = self.final(self.norm(tokens) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))
        return out.reshape(batch, side, side, 2 * channels).permute(0, 3, 1, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in [("threads", 2), ("dim", 384), ("depth", 4), ("side", 32), ("batch", 4), ("steps", 7)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--naive", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = DiffuSsm(args.dim, args.depth, args.naive)
    ema = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    x = torch.randn(args.batch, 4, args.side, args.side)
    target = torch.randn(args.batch, 8, args.side, args.side)
    t, label = torch.randint(0, 1000, (args.batch,)), torch.randint(0, 1000, (args.batch,))
    times, updates = [], []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(model(x, t, label), target).backward()
        update = time.perf_counter()
        optimizer.step()
        updates.append(1e3 * (time.perf_counter() - update))
        with torch.no_grad():
            torch._foreach_lerp_(ema, list(model.parameters()), 1e-4)
        times.append(1e3 * (time.perf_counter() - start))
    times = sorted(times[1:])
    print(json.dumps({
        "best_ms": times[0],
        "median_ms": times[len(times) // 2],
        "adamw_ns_per_parameter": 1e6 * min(updates[1:]) / sum(p.numel() for p in model.parameters()),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "torch": torch.__version__,
        **vars(args),
    }))


if __name__ == "__main__":
    main()
