"""The other half of `numpy.rs`: `python numpy.py read FILE.npz` checks a reference file as ADM's evaluator reads it, `write FOLDER`
makes such files with numpy."""

import sys
from pathlib import Path

# This file's folder holds this file, which is named like the package.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import zipfile

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic


def read(path):
    # ADM's evaluator: statistics through numpy, images through the zip, some at a time.
    with np.load(path) as file:
        assert file["mu"].shape == (2048,) and file["sigma"].shape == (2048, 2048), file["sigma"].shape
        assert file["mu_s"].shape == (2023,) and file["sigma_s"].shape == (2023, 2023)
        assert all(file[name].dtype == np.float64 for name in ("mu", "sigma", "mu_s", "sigma_s"))
        assert np.array_equal(file["sigma"], file["sigma"].T)
        images = file["arr_0"]
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        assert read_magic(file) == (1, 0)
        shape, fortran, dtype = read_array_header_1_0(file)
        assert not fortran and dtype == np.uint8 and shape == images.shape
        streamed = np.frombuffer(file.read(), np.uint8).reshape(shape)
    assert np.array_equal(streamed, images)
    print(*images.shape, int(images.astype(np.int64).sum()))


def write(folder):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    root = rng.standard_normal((2048, 8))
    statistics = {"mu": rng.random(2048), "sigma": root @ root.T}
    np.savez(folder / "stored.npz", images, **statistics)
    np.savez_compressed(folder / "deflated.npz", images, **statistics)
    print(int(images.astype(np.int64).sum()), statistics["mu"].sum(), np.trace(statistics["sigma"]))


{"read": read, "write": write}[sys.argv[1]](Path(sys.argv[2]))
