"""The forward pass of an exported DiffuSSM in NumPy: what the tensors of `trainer export` mean, in one screen.

    trainer export --checkpoint runs/demo-64-demo --out export
    python docs/export_forward.py export

Reads `config.json` and `model.safetensors` and prints the output for one image of noise. It covers the architecture that
the configurations come with (modulation film, bidir concat, disc zoh, gelu tanh, pos_embed none); see docs/export.md.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm_modulate(x, modulation, eps):
    """LayerNorm without weights of [B, J, D], then shift and scale, which stand in this order in [B, 2 D]."""
    shift, scale = np.split(modulation[:, None], 2, axis=-1)
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * (1 + scale) + shift


def s4d(w, prefix, u):
    """Both directions of the state space model: u [B, L, D] -> [B, L, 2 D]."""
    length = u.shape[1]
    part = {k: w[f"{prefix}.{k}"].astype(np.float64) for k in
            ("log_dt", "log_a_real", "a_imag", "b_re", "b_im", "c_re", "c_im", "d")}
    a = -np.exp(part["log_a_real"]) + 1j * part["a_imag"]                          # [2, D, N/2]
    z = a * np.exp(part["log_dt"])[..., None]
    gain = (part["c_re"] + 1j * part["c_im"]) * (part["b_re"] + 1j * part["b_im"]) * (np.exp(z) - 1) / a
    kernel = 2 * np.einsum("pdn,pdnl->pdl", gain, np.exp(z[..., None] * np.arange(length))).real
    out = []
    for direction in range(2):
        x = u if direction == 0 else u[:, ::-1]
        spectrum = np.fft.rfft(x, 2 * length, axis=1) * np.fft.rfft(kernel[direction].T, 2 * length, axis=0)
        y = np.fft.irfft(spectrum, 2 * length, axis=1)[:, :length] + x * part["d"][direction]
        out.append(y if direction == 0 else y[:, ::-1])
    return np.concatenate(out, -1)


def forward(w, model, x, t, y):
    """x [B, C, H, W], t [B] timesteps, y [B] labels -> [B, 2 C, H, W]: noise, then the variance's interpolation."""
    batch, channels, side, _ = x.shape
    p, m, d = model["patch_size"], model["downscale"], model["hidden_size"]
    grid, half = side // p, model["freq_dim"] // 2
    patches = x.reshape(batch, channels, grid, p, grid, p).transpose(0, 2, 4, 1, 3, 5)
    h = linear(w, "x_embed", patches.reshape(batch, grid * grid // m, m * channels * p * p))
    angle = t[:, None] * 10000.0 ** (-np.arange(half) / half)
    c = linear(w, "t_mlp2", silu(linear(w, "t_mlp1", np.concatenate([np.cos(angle), np.sin(angle)], -1))))
    if "y_embed.weight" in w:
        c = c + w["y_embed.weight"][y]
    for i in range(model["depth"]):
        b = f"blocks.{i}"
        n = norm_modulate(h, linear(w, f"{b}.mod", silu(c)), model["norm_eps"])
        u = gelu(linear(w, f"{b}.w_up", gelu(linear(w, f"{b}.w0", n)))).reshape(batch, -1, d)      # [B, L, D]
        v = s4d(w, f"{b}.ssm", u).reshape(batch, -1, m, 2 * d)                                     # [B, J, M, 2 D]
        down = np.einsum("bjkc,koc->bjko", v, w[f"{b}.w_down"]) + w[f"{b}.b_down"]
        down = gelu(down).reshape(batch, -1, 2 * d)
        h = h + linear(w, f"{b}.w3", gelu(linear(w, f"{b}.w2", down)) * gelu(linear(w, f"{b}.w1", n)))
    h = linear(w, "final", norm_modulate(h, linear(w, "final_mod", silu(c)), model["norm_eps"]))
    out = h.reshape(batch, grid, grid, p, p, -1).transpose(0, 5, 1, 3, 2, 4)
    return out.reshape(batch, -1, side, side)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    weights, model = load_file(folder / "model.safetensors"), config["model"]
    shape = (1, model["in_channels"], model["input_size"], model["input_size"])
    noise = np.random.default_rng(0).standard_normal(shape)
    output = forward(weights, model, noise, np.array([500]), np.array([0]))
    print(f"step {config['step']}: {sum(v.size for v in weights.values()):,} parameters, output {output.shape}")
    print(f"rms of noise {np.sqrt((noise**2).mean()):.3f}, of the output's difference from it "
          f"{np.sqrt(((output[:, : shape[1]] - noise) ** 2).mean()):.3f}")
