"""Writes a Stable Diffusion autoencoder of full size with random weights, as a diffusers folder.

    python benches/random_sd_vae.py OUT

Its latents mean nothing; it has the size, the files and the cost of the real one. Needs torch and diffusers.
"""

import sys

import torch
from diffusers import AutoencoderKL

torch.manual_seed(0)
AutoencoderKL(
    in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
    norm_num_groups=32, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=0.18215, sample_size=256).save_pretrained(sys.argv[1])
