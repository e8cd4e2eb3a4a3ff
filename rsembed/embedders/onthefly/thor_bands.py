"""The bands that THOR is given here: their names in its checkpoint, their groups, the statistics of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Band(NamedTuple):
    """A band: its name in the checkpoint, its group there, pixel size, pre-training mean and std."""

    name: str
    group: str
    gsd_m: float
    mean: float
    std: float


# Of reflectance (S2) and dB (S1, mode IW at 10 m): NORMALIZATION in the authors' thor/data/thor_dataset_base.py.
BANDS: Mapping[str, Mapping[str, Band]] = {
    "s2": {
        "B2": Band("S2:Blue", "group0", 10, 0.176620, 0.264520),
        "B3": Band("S2:Green", "group0", 10, 0.195923, 0.252949),
        "B4": Band("S2:Red", "group0", 10, 0.213948, 0.259180),
        "B5": Band("S2:RE1", "group1", 20, 0.263378, 0.272771),
        "B6": Band("S2:RE2", "group1", 20, 0.300818, 0.248175),
        "B7": Band("S2:RE3", "group1", 20, 0.313144, 0.235432),
        "B8": Band("S2:NIR", "group0", 10, 0.308133, 0.226434),
        "B8A": Band("S2:RE4", "group1", 20, 0.320993, 0.223274),
        "B11": Band("S2:SWIR1", "group1", 20, 0.221550, 0.171606),
        "B12": Band("S2:SWIR2", "group1", 20, 0.175772, 0.156223),
    },
    "s1": {
        "VV": Band("S1:VV", "group3", 10, -12.9850, 5.0062),
        "VH": Band("S1:VH", "group3", 10, -20.6958, 5.8688),
    },
}
