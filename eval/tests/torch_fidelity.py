"""Features of torch-fidelity's Inception network for `torch_fidelity.rs`: `python torch_fidelity.py FOLDER`.

Writes random weights in both of PyTorch's formats (legacy.pth, zipped.pth) and as safetensors, random pictures
(images.npz, `arr_0`) and what the network makes of them (features.npz: `pool`, `logits`)."""

import sys
from pathlib import Path

# This file's folder holds this file, which is named like the package.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

out = Path(sys.argv[1])
torch.manual_seed(0)
load = Network.load_state_dict
Network.load_state_dict = lambda self, state: None
torch.save({}, out / "empty.pth")
network = Network("inception", ["2048", "logits_unbiased"], str(out / "empty.pth"))
Network.load_state_dict = load

state = {}
for name, value in network.state_dict().items():
    if name.endswith("num_batches_tracked"):
        state[name] = value
    elif name.endswith("running_var") or name.endswith("bn.weight"):
        state[name] = 0.5 + torch.rand_like(value)
    elif value.dim() == 1:
        state[name] = 0.1 * torch.randn_like(value)
    else:
        state[name] = torch.randn_like(value) * (2 / value[0].numel()) ** 0.5
network.load_state_dict(state)
torch.save(state, out / "legacy.pth", _use_new_zipfile_serialization=False)
torch.save(state, out / "zipped.pth")
save_file(state, out / "weights.safetensors")

coarse = torch.rand(4, 3, 12, 9)
images = torch.nn.functional.interpolate(coarse, (96, 72), mode="bicubic").clamp(0, 1) * 255
images = (images + 20 * torch.randn_like(images)).clamp(0, 255).to(torch.uint8)
with torch.no_grad():
    pool, logits = network(images)
np.savez(out / "images.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
np.savez(out / "features.npz", pool=pool.numpy(), logits=logits.numpy())
