"""The classifier that judges the quickstart's samples: ten classes of demo images, 64 pixels, 61,514 weights.

Four 3x3 convolutions of stride 2 with group norm and ReLU, the mean over positions (64 features, in which the Frechet
distance is taken), a linear layer. Half of what it sees has gone through the autoencoder, blurred and with noise, since
samples are decoded by it. `make.py --classifier` calls it."""

import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import demo

WIDTHS = (16, 32, 64, 64)
GROUPS = 8


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        inputs = (3,) + WIDTHS[:-1]
        self.conv = torch.nn.ModuleList(
            torch.nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(inputs, WIDTHS))
        self.norm = torch.nn.ModuleList(torch.nn.GroupNorm(GROUPS, o) for o in WIDTHS)
        self.head = torch.nn.Linear(WIDTHS[-1], len(demo.CLASSES))

    def features(self, x):
        for conv, norm in zip(self.conv, self.norm):
            x = F.relu(norm(conv(x)))
        return x.mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def unit(images):
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstructed(vae, x):
    with torch.no_grad():
        return torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in x.split(32)])


def augmented(x, generator):
    if torch.rand((), generator=generator) < 0.5:
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    level = 0.15 * torch.rand((), generator=generator)
    return x + level * torch.randn(x.shape, generator=generator)


def accuracy(model, x, labels):
    with torch.no_grad():
        return (model(x).argmax(1) == labels).float().mean().item()


def make(vae, out, count=6000, steps=1500, batch=32):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    pictures, labels = demo.images(11, count, 64)
    x, labels = unit(pictures), torch.from_numpy(labels)
    x[1::2] = reconstructed(vae, x[1::2])
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        pick = torch.randint(count, (batch,), generator=generator)
        loss = F.cross_entropy(model(augmented(x[pick], generator)), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(f"step {step + 1}, loss {loss.item():.4f}", flush=True)
    export(model.eval(), vae, out)


def export(model, vae, out):
    os.makedirs(out, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(state, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    model.load_state_dict({k: v.float() for k, v in state.items()})
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    test = np.stack([(7 * x + 13 * y + 29 * c + 5 * ((x * y) % 31) + 3 * ((x * x + y) % 17)) % 256 for c in range(3)], -1)
    with torch.no_grad():
        formula = unit(test[None].astype(np.uint8))
        golden = dict(image="I(64,64)", features=model.features(formula)[0].tolist(), logits=model(formula)[0].tolist())
    with open(os.path.join(out, "golden.json"), "w") as f:
        json.dump(golden, f)
        f.write("\n")
    pictures, labels = demo.images(12, 1000, 64)
    held, labels = unit(pictures), torch.from_numpy(labels)
    print(f"{sum(p.numel() for p in model.parameters())} weights, right on {accuracy(model, held, labels):.3f} of held-out "
          f"images, {accuracy(model, reconstructed(vae, held), labels):.3f} of their reconstructions")
