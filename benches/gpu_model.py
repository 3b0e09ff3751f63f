"""DiffuSSM as plain modules of PyTorch, its diffusion and its optimiser: what gpu_reference.py times.

Shapes are those of trainer/configs, names of parameters those of the golden tensors (tests/golden/README.md has the equations).
"""

import math
import pathlib
import sys
import tomllib
from dataclasses import dataclass, fields, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent
LN_2 = math.log(2.0)
TIMESTEPS = 1000
# Parameters of the state space models with a rate of their own and without weight decay.
SSM_SUFFIXES = ("log_dt", "log_a_real", "a_imag", "b_re", "b_im")


@dataclass(frozen=True)
class Shape:
    """The keys of `[model]` that matter here, with the trainer's defaults."""

    hidden_size: int = 1152
    depth: int = 29
    state_size: int = 64
    patch_size: int = 1
    downscale: int = 2
    input_size: int = 32
    in_channels: int = 4
    num_classes: int = 1000
    class_dropout_prob: float = 0.1
    freq_dim: int = 256
    norm_eps: float = 1e-6
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    @classmethod
    def of_config(cls, name, settings):
        path = ROOT / "trainer" / "configs" / f"{name}.toml"
        if not path.exists():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.toml")))
            sys.exit(f"there is no configuration {name}; there are {known}")
        return cls.of(tomllib.loads(path.read_text())["model"], settings)

    @classmethod
    def of_golden(cls, config):
        names = {"patch_size": "patch", "hidden_size": "dim", "state_size": "state", "class_dropout_prob": "class_dropout"}
        known = {f.name: config[names.get(f.name, f.name)] for f in fields(cls)}
        wanted = {"modulation": "film", "bidir": "concat", "disc": "zoh", "gelu": "tanh", "pos_embed": "none",
                  "final_adaln": True, "learn_sigma": True, "train_b": True}
        return cls(**known) if all(config[key] == value for key, value in wanted.items()) else None

    @classmethod
    def of(cls, keys, settings):
        types = {f.name: f.type for f in fields(cls)}
        if unknown := keys.keys() - types.keys():
            sys.exit(f"this model has no choice of {', '.join(sorted(unknown))}")
        shape = cls(**keys)
        for setting in settings:
            key, _, value = setting.partition("=")
            if key not in types or not value:
                sys.exit(f"--set {setting}: expected KEY=VALUE with one of {', '.join(types)}")
            shape = replace(shape, **{key: types[key](value)})
        return shape

    @property
    def tokens(self):
        return (self.input_size // self.patch_size) ** 2 // self.downscale

    @property
    def token_width(self):
        return self.downscale * self.in_channels * self.patch_size**2

    def gflops_per_image(self):
        """10^9 multiply-adds of the linear layers of one image's forward pass, as `ModelConfig::gflops_per_image`."""
        d = self.hidden_size
        per_token = d * d * (1 + self.downscale) + 4 * d * d + 8 * d * d
        ends = self.tokens * d * 3 * self.token_width + self.freq_dim * d + 3 * d * d
        return (self.depth * (self.tokens * per_token + 2 * d * d) + ends) / 1e9


def product(a, b):
    """Of complex numbers as pairs, which the compiler can fuse with what is around them."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


class BidirectionalS4d(nn.Module):
    """Two banks of diagonal state space models, [B, L, D] -> [B, L, 2 D]: forward half first."""

    def __init__(self, shape, factored):
        super().__init__()
        self.factored = factored
        dim, half = shape.hidden_size, shape.state_size // 2
        low, high = math.log(shape.dt_min), math.log(shape.dt_max)
        self.log_dt = nn.Parameter(torch.rand(2, dim) * (high - low) + low)
        self.log_a_real = nn.Parameter(torch.full((2, dim, half), math.log(0.5)))
        self.a_imag = nn.Parameter((math.pi * torch.arange(half).float()).expand(2, dim, half).clone())
        self.b_re, self.b_im = nn.Parameter(torch.ones(2, dim, half)), nn.Parameter(torch.zeros(2, dim, half))
        self.c_re, self.c_im = (nn.Parameter(torch.randn(2, dim, half) * math.sqrt(0.5)) for _ in range(2))
        self.d = nn.Parameter(torch.randn(2, dim))

    def kernels(self, length):
        """`K[l] = 2 Re sum_n C_n B_n (exp(z_n) - 1) / A_n exp(z_n l)`, z = A dt: [2, D, L]."""
        a, dt = (-self.log_a_real.exp(), self.a_imag), self.log_dt.exp().unsqueeze(-1)
        x, y = a[0] * dt, a[1] * dt
        # exp(z) - 1 without cancellation where z is small.
        rise = (torch.expm1(x) * y.cos() - 2 * (y / 2).sin() ** 2, x.exp() * y.sin())
        norm = a[0] ** 2 + a[1] ** 2
        gain = product(product((self.c_re, self.c_im), (self.b_re, self.b_im)), product(rise, (a[0] / norm, -a[1] / norm)))

        def powers(at):
            radius, angle = (x.unsqueeze(-1) * at).exp(), y.unsqueeze(-1) * at
            return radius * angle.cos(), radius * angle.sin()

        def samples(count, step=1):
            return torch.arange(count, device=x.device, dtype=x.dtype) * step

        weights = tuple(part.unsqueeze(-1) for part in gain)
        if not self.factored:
            return 2 * product(weights, powers(samples(length)))[0].sum(-2)
        inner = 1 << (length.bit_length() // 2)
        left, right = product(weights, powers(samples(-(-length // inner), inner))), powers(samples(inner))
        folded = left[0].mT @ right[0] - left[1].mT @ right[1]
        return 2 * folded.flatten(-2)[..., :length]

    def forward(self, u):
        # Transforms and what the kernels are made of stay in the type of the parameters.
        with torch.autocast(u.device.type, enabled=False):
            length, x = u.shape[1], u.to(self.d.dtype).transpose(1, 2).contiguous()
            forward, backward = torch.fft.rfft(self.kernels(length), n=2 * length)
            spectra = torch.stack([forward, backward.conj()])
            both = torch.fft.irfft(torch.fft.rfft(x, n=2 * length).unsqueeze(1) * spectra, n=2 * length)
            y = both[..., :length] + x.unsqueeze(1) * self.d.unsqueeze(-1)
            return y.flatten(1, 2).transpose(1, 2).to(u.dtype)


def gelu(x):
    return F.gelu(x, approximate="tanh")


def modulated(x, modulation, eps):
    shift, scale = modulation.unsqueeze(1).chunk(2, dim=-1)
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


class Block(nn.Module):
    """Hourglass up, state space models, hourglass down, gate: a residual branch on tokens [B, J, D], given c [B, D]."""

    def __init__(self, shape, factored):
        super().__init__()
        d, ratio = shape.hidden_size, shape.downscale
        self.ratio, self.eps = ratio, shape.norm_eps
        self.mod, self.w0, self.w_up = nn.Linear(d, 2 * d), nn.Linear(d, d), nn.Linear(d, ratio * d)
        self.ssm = BidirectionalS4d(shape, factored)
        self.w_down = nn.Parameter(torch.randn(ratio, 2 * d // ratio, 2 * d) * 0.02)
        self.b_down = nn.Parameter(torch.zeros(ratio, 2 * d // ratio))
        self.w1, self.w2, self.w3 = nn.Linear(d, 2 * d), nn.Linear(2 * d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, tokens, c):
        batch, count, dim = tokens.shape
        h = modulated(tokens, self.mod(F.silu(c)), self.eps)
        u = gelu(self.w_up(gelu(self.w0(h)))).reshape(batch, count * self.ratio, dim)
        y = self.ssm(u).reshape(batch, count, self.ratio, 2 * dim)
        down = gelu(torch.einsum("bjmi,moi->bjmo", y, self.w_down) + self.b_down).reshape(batch, count, 2 * dim)
        return tokens + self.w3(gelu(self.w2(down)) * gelu(self.w1(h)))


class DiffuSsm(nn.Module):
    """x [B, C, H, W], timesteps, labels -> [B, 2 C, H, W]. Parameters have the names of the golden tensors."""

    def __init__(self, shape, factored=False, recompute=False):
        super().__init__()
        self.shape, self.recompute, d = shape, recompute, shape.hidden_size
        self.x_embed = nn.Linear(shape.token_width, d)
        self.t_mlp1, self.t_mlp2 = nn.Linear(shape.freq_dim, d), nn.Linear(d, d)
        rows = shape.num_classes + (shape.num_classes > 0 and shape.class_dropout_prob > 0)
        self.y_embed = nn.Embedding(rows, d) if rows else None
        self.blocks = nn.ModuleList([Block(shape, factored) for _ in range(shape.depth)])
        self.final_mod, self.final = nn.Linear(d, 2 * d), nn.Linear(d, 2 * shape.token_width)

    def condition(self, t, labels):
        half = self.shape.freq_dim // 2
        at = torch.arange(half, device=t.device, dtype=torch.float64)
        angle = t.unsqueeze(1) * torch.exp(-math.log(10_000) * at / half)
        features = torch.cat([angle.cos(), angle.sin()], -1).to(self.t_mlp1.weight.dtype)
        c = self.t_mlp2(F.silu(self.t_mlp1(features)))
        return c if self.y_embed is None else c + self.y_embed(labels)

    def forward(self, x, t, labels):
        batch, channels, side, _ = x.shape
        patch, grid = self.shape.patch_size, side // self.shape.patch_size
        c = self.condition(t, labels)
        patches = x.reshape(batch, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        # The residual stream stays f32 under autocast.
        tokens = self.x_embed(patches.reshape(batch, -1, self.shape.token_width)).to(x.dtype)
        for block in self.blocks:
            if self.recompute:
                tokens = checkpoint(block, tokens, c, use_reentrant=False)
            else:
                tokens = block(tokens, c)
        out = self.final(modulated(tokens, self.final_mod(F.silu(c)), self.shape.norm_eps)).to(x.dtype)
        out = out.reshape(batch, grid, grid, patch, patch, 2 * channels)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(batch, 2 * channels, side, side)


class Diffusion(nn.Module):
    """ADM's process with linear betas and a learned range of the variance; in f64, as the trainer: numbers are few."""

    def __init__(self):
        super().__init__()
        betas = torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)
        now = (1 - betas).cumprod(0)
        before = F.pad(now[:-1], (1, 0), value=1.0)
        low = (betas * (1 - before) / (1 - now)).log()
        low[0] = low[1]
        coefs = betas * before.sqrt() / (1 - now), (1 - before) * (1 - betas).sqrt() / (1 - now)
        self.register_buffer("tables", torch.stack([now, low, betas.log(), *coefs]))

    def of(self, t):
        return self.tables[:, t].reshape(5, -1, 1, 1, 1)

    def noised(self, x_start, noise, t):
        now = self.of(t)[0]
        return (now.sqrt() * x_start + (1 - now).sqrt() * noise).to(x_start.dtype)

    def loss(self, output, x_start, noise, x_t, t):
        """The mean over images of squared error and variational bound, whose gradient reaches the variance alone."""
        eps, v = output.double().chunk(2, dim=1)
        now, low, high, coef1, coef2 = self.of(t)
        mse = (noise - eps).square()
        mean = coef1 * ((1 / now).sqrt() * x_t - (1 / now - 1).sqrt() * eps.detach()) + coef2 * x_t
        fraction = (v + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
        distance = coef1 * x_start + coef2 * x_t - mean
        kl = 0.5 * (-1 + log_variance - low + (low - log_variance).exp() + distance.square() * (-log_variance).exp())
        likelihood = discretized_log_likelihood(x_start, mean, 0.5 * log_variance)
        return (mse + torch.where(t.reshape(-1, 1, 1, 1) == 0, -likelihood, kl) / LN_2).mean()


def discretized_log_likelihood(x, mean, log_scale):
    """Log-probability of the bin of width 2/255 around x, with the tanh form of the normal distribution."""

    def cdf(z):
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    plus, minus = (cdf((x - mean + side / 255) * (-log_scale).exp()) for side in (1, -1))
    inside = torch.where(x > 0.999, 1 - minus, plus - minus)
    return torch.where(x < -0.999, plus, inside).clamp(min=1e-12).log()


def optimizer_of(model, lr, ssm_lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    ssm = [p for name, p in model.named_parameters() if name.endswith(SSM_SUFFIXES)]
    others = [p for name, p in model.named_parameters() if not name.endswith(SSM_SUFFIXES)]
    groups = [{"params": others}, {"params": ssm, "lr": ssm_lr, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
