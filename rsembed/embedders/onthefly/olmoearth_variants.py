"""What OlmoEarth is published as, and the bands it is given here with the statistics of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Variant(NamedTuple):
    """One release: shape of its encoder; ``pixel_hidden`` of the layer over single pixels; ``file_bytes`` about."""

    version: Literal["v1", "v1_1", "v1_2"]
    size: str
    dim: int
    depth: int
    heads: int
    pixel_hidden: int | None
    file_bytes: int

    @property
    def repo(self) -> str:
        """Repository on the model hub."""
        return f"allenai/OlmoEarth-{self.version}-{self.size.capitalize()}"


_SHAPES = {"nano": (128, 4, 8), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12),
           "large": (1024, 24, 16)}  # fmt: skip
_FILE_MB: Mapping[Literal["v1", "v1_1", "v1_2"], Mapping[str, int]] = {
    "v1": {"nano": 14, "tiny": 57, "base": 830, "large": 2680},
    "v1_1": {"nano": 47, "tiny": 107, "base": 1030},
    "v1_2": {"nano": 47, "tiny": 107, "small": 314, "base": 1030},
}


def _variants() -> dict[str, Variant]:
    found = {}
    for version, sizes in _FILE_MB.items():
        for size, megabytes in sizes.items():
            hidden = None if version == "v1" else 12 if size == "nano" else 64
            name = size if version == "v1" else f"{size}_{version}"
            found[name] = Variant(version, size, *_SHAPES[size], hidden, megabytes * 1_000_000)
    return found


VARIANTS = _variants()
ALIASES = {"small": "small_v1_2", **{f"{variant.size}_v1": name for name, variant in VARIANTS.items()
                                     if variant.version == "v1"}}  # fmt: skip


class Band(NamedTuple):
    """Mean and std of a band in the pre-training data, DN or decibels."""

    mean: float
    std: float


# data/norm_configs/computed.json of the authors' repository, in the order of the network.
BANDS: Mapping[str, Mapping[str, Band]] = {
    "s2": {
        "B2": Band(1188.9412572078477, 1859.1923971769581),
        "B3": Band(1407.7739105458452, 1727.7387413631088),
        "B4": Band(1513.0573882432757, 1740.7757298757895),
        "B8": Band(2755.481305028308, 1612.2565699990187),
        "B5": Band(1890.9893042634167, 1754.7320388511766),
        "B6": Band(2483.7812315422448, 1622.1172720635755),
        "B7": Band(2722.728248756412, 1621.8226170190276),
        "B8A": Band(2885.570263047681, 1611.3587521042082),
        "B11": Band(2562.852607796968, 1441.5471830655151),
        "B12": Band(1914.1383249044113, 1328.8914382756407),
        "B1": Band(1115.8494388252218, 1955.6991794280914),
        "B9": Band(3269.812554170875, 2651.088425085525),
    },
    "s1": {
        "VV": Band(-11.648990747328444, 10.840350299936597),
        "VH": Band(-17.745436133270044, 10.216274681392647),
    },
}
SENSORS = {"s2": "sentinel2_l2a", "s1": "sentinel1"}
"""Modality -> its name in the checkpoints."""


def band_sets(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Sensor -> channels of each of its sets of bands: by ground resolution in version 1, all together later."""
    return {"sentinel2_l2a": (4, 6, 2) if variant.version == "v1" else (12,), "sentinel1": (2,)}
