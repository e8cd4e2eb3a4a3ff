"""Prithvi-EO-2.0 with time and location (TL): a masked autoencoder's encoder over 1 to 4 dates of six bands."""

from __future__ import annotations

import datetime as dt
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.fetching import FramePolicy
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.sentinel import HLS, HLS_S30, S2_L2A, SQUARE, only
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

logger = logging.getLogger(__name__)


class Size(NamedTuple):
    """Shape of a variant's encoder; ``patch_px`` pixels a side per token, ``file_bytes`` about."""

    name: str
    dim: int
    depth: int
    heads: int
    patch_px: int
    file_bytes: int


SIZES = {
    "prithvi_eo_v2_100_tl": Size("100M", 768, 12, 12, 16, 455_000_000),
    "prithvi_eo_v2_300_tl": Size("300M", 1024, 24, 16, 16, 1_330_000_000),
    "prithvi_eo_v2_600_tl": Size("600M", 1280, 32, 16, 14, 2_640_000_000),
}
SHORT_NAMES = {
    short: variant for variant, size in SIZES.items() for short in (f"{size.name[:-1]}_tl", f"{size.name.lower()}_tl")
}
# DN of the six bands: `mean` and `std` of the checkpoints' config.json.
MEAN = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0)
STD = (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)
NO_DATA = 0.0001  # what the authors' inference.py puts, after normalisation, where there is no data
TRAINED_PX = 224
BANDS = ("B2", "B3", "B4", "B8A", "B11", "B12")
FRAMES = FramePolicy("auto", frame_days=28, max_frames=4)

_SIDE_INPUTS = (
    Step("date code: year and day of the year of each frame, float32, learned scale", "verified"),
    Step("place code: (latitude, longitude) of the row's centre in degrees; inference.py swaps the two", "inferred"),
    Step("pooled: mean (or max) over patch tokens of all frames after the final norm, no class token", "inferred"),
)

CARD = ModelCard(
    id="prithvi",
    title="Prithvi-EO-2.0 TL",
    summary="NASA/IBM masked autoencoder on Harmonized Landsat Sentinel-2, six bands, 1-4 dates, date and place codes",
    paper="arXiv:2412.02732",
    source="https://github.com/NASA-IMPACT/Prithvi-EO-2.0",
    kind="onthefly",
    inputs={
        "s2": InputContract(S2_L2A, BANDS, scale_m=30, image_size=TRAINED_PX, frames=FRAMES),
        "hls": InputContract(HLS_S30, BANDS, scale_m=30, image_size=TRAINED_PX, frames=FRAMES),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={variant: size.dim for variant, size in SIZES.items()},
    licence=Licence("Apache-2.0", "yes", "Prithvi-EO-2.0 by IBM and NASA (Apache-2.0)"),
    steps={
        "authors": (
            only("s2", Step("surface reflectance as stand-in for the HLS product of the training", "inferred")),
            HLS,
            Step("(DN - mean) / std per band, no clipping; then invalid pixels 0.0001 (inference.py)", "documented"),
            SQUARE,
            Step("bilinear to 224 without antialias", "inferred"),
            Step("frames: one per 28 days of the window, 1 to 4; dates are median acquisitions", "inferred"),
            *_SIDE_INPUTS,
        ),
        "rs-embed": (
            HLS,
            Step("DN / 10000, clipped to 0..1, invalid pixels 0; no mean or std", "verified"),
            Step("frames that are bit-identical to an earlier one are dropped, with their dates", "documented"),
            SQUARE,
            Step("bilinear to 224 without antialias", "verified"),
            Step("frames: one per 28 days of the window, 1 to 4; dates are the bins' mid-points", "verified"),
            *_SIDE_INPUTS,
        ),
    },
    options=(
        Option("variant", "str", "prithvi_eo_v2_100_tl", "network size", choices=tuple(SIZES), aliases=SHORT_NAMES),
        Option("temporal_mode", "str", "auto", "auto: one per frame_stride_days, at most max_frames; single; multi: "
               "max_frames always", choices=("auto", "single", "multi")),
        Option("max_frames", "int", 4, "most frames of a window (also: n_frames)", minimum=1, maximum=64),
        Option("frame_stride_days", "int", 28, "days of the window per frame in auto mode", minimum=1, maximum=3660),
        Option("max_stride_days", "int", 184, "warn when two frames lie further apart", minimum=1, maximum=36600),
        Option("prep", "str", "resize", "other sizes: resize to image_size, or pad to a multiple of patch_mult",
               choices=("resize", "pad")),
        Option("image_size", "int", TRAINED_PX, "input pixels, a multiple of the patch size", minimum=14, maximum=2048),
        Option("patch_mult", "int", 16, "for prep=pad; a multiple of the patch size", minimum=14, maximum=2048),
    ),
    weights={
        variant: WeightsFile(f"ibm-nasa-geospatial/Prithvi-EO-2.0-{size.name}-TL", f"Prithvi_EO_V2_{size.name}_TL.pt",
                             size_bytes=size.file_bytes)
        for variant, size in SIZES.items()
    },
    batch_size={"cpu": 8, "cuda": 32},
    notes=(
        "patches are 16 px (600_tl: 14 px): grids of 14 x 14 (16 x 16) cells at 224 px",
        "hls reads the Sentinel-2 half; for Landsat name NASA/HLS/HLSL30/v002 with B2, B3, B4, B5, B6, B7 in a sensor",
        "with prep=pad, padding mirrors the bottom and right edge; pooling leaves the padding out",
    ),
)  # fmt: skip


class Prithvi(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (6, T, H, W), ``temporal_coords`` (T, 2), ``location_coords`` (2,)."""

    card = CARD
    rename = ((r"^encoder\.", ""),)
    # The decoder, and position tables stored for four frames: fixed codes, built for the frames at hand.
    drop = (r"decoder\..*", r"encoder\.pos_embed")

    @property
    def contract(self) -> InputContract:
        """The card's contract with the frame policy and the size of the options."""
        options = self.config.options
        most, days = int(options["max_frames"] or 1), int(options["frame_stride_days"] or 1)
        frames = {
            "single": FramePolicy("single"),
            "auto": FramePolicy("auto", frame_days=days, max_frames=most),
            "multi": FramePolicy("multi", frame_days=days, max_frames=most, n_frames=most),
        }[str(options["temporal_mode"])]
        size, padded = self._size("image_size"), options["prep"] == "pad"
        return replace(super().contract, frames=frames, image_size=size, any_size=padded)

    def _size(self, option: str) -> int:
        pixels, patch = int(self.config.options[option] or 0), SIZES[self.variant].patch_px
        if pixels % patch:
            raise ModelError(f"prithvi: {option} must be a multiple of {patch} for {self.variant}, got {pixels}")
        return pixels

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """A square, or with prep=pad the next multiples of ``patch_mult``."""
        if self.config.options["prep"] == "resize":
            return super().canvas(height, width)
        step = self._size("patch_mult")
        return -(-height // step) * step, -(-width // step) * step

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        dates: Sequence[dt.date] = view.dates
        values, hls = view.values_tchw, self.config.modality == "hls"
        values = preprocess.to_dn(values, view.valid_tchw) if hls else values
        if self.config.recipe == "authors":
            normalised = preprocess.standardise(values, MEAN, STD)
            frames = preprocess.fill_invalid(normalised, view.valid_tchw, NO_DATA)
        else:
            frames = preprocess.reflectance(preprocess.fill_invalid(values, view.valid_tchw))
            kept = preprocess.distinct_frames(frames)
            frames, dates = frames[kept], [dates[i] for i in kept]
        self._warn_of_gaps(dates)
        frames = preprocess.pad_to(frames, *self.canvas(*frames.shape[-2:]))
        if self.config.options["prep"] == "resize":
            frames = preprocess.resize_bilinear(frames, self._size("image_size"))
        return {
            "pixels": np.ascontiguousarray(frames.transpose(1, 0, 2, 3)),
            "temporal_coords": preprocess.year_and_day(dates),
            "location_coords": np.array([view.lat, view.lon], dtype=np.float32),
        }

    def _warn_of_gaps(self, dates: Sequence[dt.date]) -> None:
        gap = max(((b - a).days for a, b in zip(dates, dates[1:], strict=False)), default=0)
        limit = int(self.config.options["max_stride_days"] or 0)
        if gap > limit:
            logger.warning("temporal_spacing_out_of_range", extra={"gap_days": gap, "max_stride_days": limit})
            warnings.warn(
                f"prithvi: two frames lie {gap} days apart, more than max_stride_days={limit}; the model was trained "
                f"on closer dates, so ask for more frames or a shorter window",
                stacklevel=2,
            )

    def build(self) -> nn.Module:
        """The encoder of the variant."""
        from rsembed.embedders.nets.prithvi_net import PrithviEncoder

        size = SIZES[self.variant]
        return PrithviEncoder(size.dim, size.depth, heads=size.heads, patch_px=size.patch_px, trained_px=TRAINED_PX)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Patch tokens of all frames after the final norm."""
        tokens: Tokens = net(tensors["pixels"], tensors["temporal_coords"], tensors["location_coords"])
        return tokens
