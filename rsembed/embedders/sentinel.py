"""What cards say of Sentinel imagery in the same words: products, bands, and steps on the way to a network."""

from __future__ import annotations

from typing import NamedTuple

from rsembed.core.card import Step

S2_L1C = "COPERNICUS/S2_HARMONIZED"
S2_L2A = "COPERNICUS/S2_SR_HARMONIZED"
HLS_S30 = "NASA/HLS/HLSS30/v002"
S1_DECIBEL = "COPERNICUS/S1_GRD"
S1_POWER = "COPERNICUS/S1_GRD_FLOAT"
RGB = ("B4", "B3", "B2")


class SpectralBand(NamedTuple):
    """A band as its model knows it: wavelength in micrometres; mean and std in the unit of the model's statistics."""

    wavelength_um: float
    mean: float
    std: float


# Of the images of fMoW (Functional Map of the World), 0..1: util/datasets.py of github.com/sustainlab-group/SatMAE,
# taken over by those who followed.
FMOW_MEAN = (0.4182007312774658, 0.4214799106121063, 0.3991275727748871)
FMOW_STD = (0.28774282336235046, 0.27541765570640564, 0.2764017581939697)

SQUARE = Step("mirrored at the bottom or right to a square", "inferred")
AS_PHOTOGRAPH = Step(
    "DN / 10000, clipped to 0..1, times 255, decimals cut off, bytes; invalid pixels 0. The authors worked on 8-bit "
    "fMoW images and give no rule for Sentinel-2, which comes out darker",
    "inferred",
)


def only(modality: str, step: Step) -> Step:
    """``step`` as one of a single modality."""
    return Step(f"{modality}: {step.text}", step.status)


HLS = only("hls", Step("Harmonized Landsat Sentinel-2, times 10000 where it is given as 0..1", "documented"))
