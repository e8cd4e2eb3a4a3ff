"""What Galileo is made for: its sizes, its groups of bands, their statistics, and its ways to normalise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rsembed.core.errors import ModelError
from rsembed.embedders import preprocess


class Size(NamedTuple):
    """Shape of a variant's encoder; ``file_bytes`` about."""

    dim: int
    depth: int
    heads: int
    file_bytes: int


SIZES = {
    "nano": Size(128, 4, 8, 4_200_000),
    "tiny": Size(192, 12, 3, 23_000_000),
    "base": Size(768, 12, 12, 347_000_000),
}
BANDS = {"s2": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), "s1": ("VV", "VH")}
GROUPS: Mapping[str, Mapping[str, int]] = {
    "s1": {"S1": 2},
    "s2": {"S2_RGB": 3, "S2_Red_Edge": 3, "S2_NIR_10m": 1, "S2_NIR_20m": 1, "S2_SWIR": 2},
}
"""Modality -> group of its bands, in their order -> how many; groups have their stored codes in this order."""

# Of DN and decibels: config/normalization.json of the authors' repository.
_MEAN = {
    "s2": (1395.3408730676722, 1338.4026921784578, 1343.09883810357, 1543.8607982512297, 2186.2022069512263,
           2525.0932853316694, 2410.3377187373408, 2750.2854646886753, 2234.911100061487, 1474.5311266077113),
    "s1": (-11.728724389184965, -18.85558188024017),
}  # fmt: skip
_STD = {
    "s2": (917.7041440370853, 913.2988423581528, 1092.678723527555, 1047.2206083460424, 1048.0101611156767,
           1143.6903026819996, 1098.979177731649, 1204.472755085893, 1145.9774063078878, 980.2429840007796),
    "s1": (4.887145774840316, 5.730270320384293),
}  # fmt: skip
NORMALISATIONS = ("recipe", "two_sigma", "official_stats", "unit_scale", "per_tile_minmax", "none")


def normalised(frames: preprocess.Floats, modality: str, how: str) -> preprocess.Floats:
    """DN or decibels (T, C, H, W) as the network takes them; ``how``: one of NORMALISATIONS but ``recipe``.

    ``two_sigma`` is the authors': mean - 2 std .. mean + 2 std to 0..1. The others are the reference's; they clip DN
    to 0..10000. ``official_stats``: (x - mean) / std; ``unit_scale``: / 10000; ``per_tile_minmax``: that, and each
    plane's minimum .. maximum to 0..1; ``none``: as it is. Raises ModelError for reflectance scales on radar.
    """
    mean, std = _MEAN[modality], _STD[modality]
    if how == "two_sigma":
        return preprocess.spread_to_unit(frames, mean, std)
    if modality == "s2":
        frames = np.clip(frames, np.float32(0.0), np.float32(preprocess.S2_SCALE))
    elif how not in ("official_stats", "none"):
        raise ModelError(
            f"galileo: normalization={how!r} is for reflectance; s1 takes two_sigma, official_stats or none"
        )
    if how == "official_stats":
        return preprocess.standardise(frames, mean, std)
    if how == "none":
        return frames
    units = preprocess.reflectance(frames)
    return units if how == "unit_scale" else preprocess.stretch_to_unit(units)
