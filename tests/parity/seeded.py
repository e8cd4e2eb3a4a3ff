"""Deterministic stand-ins for published checkpoints and for raw imagery.

The published weights cannot be downloaded where the tests run. A parity case
therefore names every tensor of a published checkpoint (``weights.json``) and
both the reference implementation and this project load the same seeded values
for those names. If an implementation has the right parameter names, shapes,
pre-processing and forward pass, its output equals the reference output.

Only ``numpy.random.RandomState`` is used: its streams are frozen by NumPy's
compatibility policy, so the values are the same on every platform and version.

Command line
------------
``python seeded.py weights.json OUT``   writes the checkpoint file that
``weights.json`` describes (``.safetensors`` or a ``torch.save`` file, by its
``format``), to be read by the project's real loading code.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np


def seeded_tensor(name: str, shape: tuple[int, ...] | list[int], dtype: str = "float32") -> np.ndarray:
    """Values for one named tensor: uniform noise, scaled so activations stay O(1).

    * ``num_batches_tracked`` and other integer tensors: zeros
    * ``running_var``: in [0.75, 1.25]; ``running_mean``: in [-0.1, 0.1]
    * one-dimensional ``*weight``, ``*gamma*``, ``*scale*``: in [0.9, 1.1]
    * every other one-dimensional tensor: in [-0.05, 0.05]
    * two or more dimensions: zero mean, standard deviation ``1/sqrt(fan_in)``
      with ``fan_in`` the product of all dimensions but the first
    """
    shape = tuple(int(s) for s in shape)
    if not dtype.startswith(("float", "bfloat")):
        return np.zeros(shape, dtype=dtype)
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    u = rng.random_sample(int(np.prod(shape, dtype=np.int64))).astype(np.float32) * 2.0 - 1.0
    u = u.reshape(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        u = 1.0 + 0.25 * u
    elif last == "running_mean":
        u = 0.1 * u
    elif len(shape) <= 1:
        if last.endswith("weight") or "gamma" in last or "scale" in last:  # noqa: SIM108 - one line would be too long
            u = 1.0 + 0.1 * u
        else:
            u = 0.05 * u
    else:
        fan_in = max(1, int(np.prod(shape[1:], dtype=np.int64)))
        u = u * np.float32(math.sqrt(3.0 / fan_in))
    return np.ascontiguousarray(u, dtype=np.float32)


def seeded_state_dict(weights: dict) -> dict[str, np.ndarray]:
    """``{name: array}`` for every tensor that a ``weights.json`` names."""
    return {n: seeded_tensor(n, t["shape"], t.get("dtype", "float32")) for n, t in weights["tensors"].items()}


def seeded_image(shape: tuple[int, ...] | list[int], seed: int, low: float = 0.0, high: float = 4000.0) -> np.ndarray:
    """A smooth field plus fine noise, float32, integer-valued in [low, high].

    ``shape`` is ``(C, H, W)`` or ``(T, C, H, W)``; every leading plane differs.
    """
    *lead, h, w = (int(s) for s in shape)
    rng = np.random.RandomState(seed)
    planes = int(np.prod(lead, dtype=np.int64))
    yy, xx = np.meshgrid(np.linspace(0, 1, h), np.linspace(0, 1, w), indexing="ij")
    out = np.empty((planes, h, w), dtype=np.float64)
    for p in range(planes):
        a, b, c, d = rng.random_sample(4)
        f1, f2 = 1 + 6 * rng.random_sample(2)
        smooth = 0.5 + 0.25 * np.sin(2 * np.pi * (f1 * xx + a)) + 0.25 * np.cos(2 * np.pi * (f2 * yy + b))
        noise = rng.random_sample((h, w))
        out[p] = 0.1 * c + 0.65 * smooth + 0.25 * noise * d
    out = np.clip(out, 0, 1)
    img = np.round(low + (high - low) * out) if high - low > 50 else low + (high - low) * out
    return img.reshape(*lead, h, w).astype(np.float32)


def sample_indices(size: int, n: int = 4096) -> np.ndarray:
    """Flat indices at which a large reference array is stored and compared."""
    return np.unique(np.linspace(0, size - 1, min(n, size)).astype(np.int64))


def write_checkpoint(weights: dict, out: Path) -> None:
    """Write the checkpoint file that ``weights`` describes to ``out``."""
    arrays = seeded_state_dict(weights)
    if weights.get("format") == "safetensors":
        from safetensors.numpy import save_file

        save_file(arrays, str(out))
        return
    import torch

    state: object = {n: torch.from_numpy(a) for n, a in arrays.items()}
    for key in reversed(weights.get("wrap", [])):
        state = {key: state}
    torch.save(state, str(out))


if __name__ == "__main__":
    write_checkpoint(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
