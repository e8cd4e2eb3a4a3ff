"""Galileo: a masked autoencoder over series of Sentinel-2 or Sentinel-1 in 30-day steps, in patches of any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FramePolicy
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.onthefly.galileo_bands import BANDS, GROUPS, NORMALISATIONS, SIZES, normalised
from rsembed.embedders.sentinel import S1_DECIBEL, S1_POWER, S2_L1C, S2_L2A, SQUARE, only
from rsembed.embedders.series import every_bin
from rsembed.embedders.torch_model import TorchEmbedder
from rsembed.tools.temporal import equal_bins

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


IMAGE_PX, LONGEST, DAYS = 64, 24, 30
_OWN_BINS = FramePolicy("auto", frame_days=DAYS, max_frames=12, bins="fixed")
_COMMON = (
    SQUARE,
    Step("other sizes: bilinear to image_size without antialias", "inferred"),
    Step(
        "only the tokens of the given bands; no NDVI, which the authors' construct_galileo_input masks too", "verified"
    ),
    Step(
        "grid: mean over dates and groups of bands after the final norm; pooled: mean (or max) of the grid", "verified"
    ),
)

CARD = ModelCard(
    id="galileo",
    title="Galileo",
    summary="Self-supervised ViT over series of monthly images, trained on many sensors; here Sentinel-2 or Sentinel-1",
    paper="arXiv:2502.09356",
    source="https://github.com/nasaharvest/galileo",
    kind="onthefly",
    inputs={
        "s2": InputContract(
            S2_L1C, BANDS["s2"], 10, IMAGE_PX, frames=_OWN_BINS, composite="mosaic",
            clouds=CloudPolicy("none", None, None), reference_collection=S2_L2A,
        ),
        "s1": InputContract(S1_DECIBEL, BANDS["s1"], 10, IMAGE_PX, frames=_OWN_BINS, orbit="most_images"),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={name: size.dim for name, size in SIZES.items()},
    licence=Licence("MIT", "yes", "Galileo by Tseng et al. 2025 (arXiv:2502.09356), NASA Harvest"),
    steps={
        "authors": (
            Step("s2: Level-1C, every scene; the authors take each pixel where a score of cloud and shadow is least "
                 "(qualityMosaic), here the least cloudy scene of the bin lies on top", "inferred"),
            Step("s1: one orbit pass for all bins, mode IW, median of the bin's images", "documented"),
            Step("s1: the pass with more images, from the bin alone; the authors take the first image's pass and the "
                 "images within 15 days of the bin's middle", "inferred"),
            Step("frames: bins of 30 days from the window's first day, a shorter rest left out (eo.py); 12 at most as "
                 "in training, then 12 equal parts", "documented"),
            Step("an empty bin's tokens are left out; the others keep their place in the series", "documented"),
            Step("month: of each frame's median acquisition; the authors count on from the first bin's", "inferred"),
            Step("invalid pixels: the band's mean over the frames' means (dataset.py, _fillna)", "documented"),
            Step("(x - (mean - 2 std)) / (4 std) per band, not clipped (dataset.py, Normalizer)", "documented"),
            Step("a token is told the ground it covers, also where the image was resized", "documented"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("invalid pixels 0; DN clipped to 0..10000 and not normalised (normalization=none)", "verified"),
            Step("frames: equal parts of the window, one per 30 days begun, 12 at most; the month of each part's "
                 "middle; one image in hand is repeated", "verified"),
            Step("an empty bin takes the median of the other frames, where the reference has the composite of the "
                 "whole window", "inferred"),
            Step("a token is told to have input_resolution_m a pixel, whatever it covers", "verified"),
            only("s1", Step("not offered by the reference: orbit passes mixed, decibels as they are", "inferred")),
            *_COMMON,
        ),
    },
    options=(
        Option("size", "str", "nano", "network size", choices=tuple(SIZES)),
        Option("temporal_mode", "str", "auto", "auto, multi: a frame per 30 days, or n_frames; single: one composite",
               choices=("auto", "single", "multi")),
        Option("n_frames", "int", None, "so many equal parts of the window", minimum=1, maximum=LONGEST),
        Option("image_size", "int", IMAGE_PX, "input pixels, a multiple of patch_size", minimum=1, maximum=1024),
        Option("patch_size", "int", 8, "pixels a side of a token; smaller is finer and slower", minimum=1, maximum=16),
        Option("normalization", "str", "recipe", "recipe: the authors' two_sigma, the reference's none; all but "
               "two_sigma clip DN to 0..10000", choices=NORMALISATIONS),
        Option("add_layernorm_on_exit", "bool", True, "with the final norm"),
        Option("input_resolution_m", "float", 10.0, "ground of a pixel as the recipe rs-embed tells it", minimum=0.1,
               maximum=1000),
        Option("month", "int", None, "told for every frame instead of its own, 1..12", minimum=1, maximum=12),
    ),
    variant_option="size",
    weights={
        name: WeightsFile("nasaharvest/galileo", f"models/{name}/encoder.pt", size_bytes=size.file_bytes)
        for name, size in SIZES.items()
    },
    batch_size={"cpu": 4, "cuda": 32},
    notes=("at 64 px and patches of 8 px: grids of 8 x 8 cells of 80 m",),
)  # fmt: skip


class Galileo(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (T, C, n, n), ``months`` and ``slots`` (T,), ``step`` (): 10 m a token."""

    card = CARD
    rename = (
        (r"\.backbone", ""),
        (r"^space_time_embed\.(\w+)\.proj\.", r"kernels.\1."),
        (r"^s_t_channel_embed$", "group_codes"),
    )
    # What the given bands do without: the tokens of maps, weather and places, and of NDVI.
    drop = (r"(space|time|static)_embed\..*", r"(sp|t|st)_channel_embed", r"space_time_embed\.NDVI\..*")
    net_options = ("size",)

    @property
    def contract(self) -> InputContract:
        """The card's contract with the frames and the size of the options."""
        contract, options = super().contract, self.config.options
        size, patch = int(options["image_size"] or 0), int(options["patch_size"] or 1)
        if size % patch:
            raise ModelError(f"galileo: image_size must be a multiple of patch_size {patch}, got {size}")
        frames = contract.frames
        if self.config.recipe == "rs-embed":
            frames = replace(frames, bins="equal", round_up=True)
        if options["temporal_mode"] == "single":
            frames = FramePolicy()
        elif options["n_frames"] is not None:
            frames = FramePolicy("multi", n_frames=int(options["n_frames"]))
        return replace(contract, frames=frames, image_size=size)

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        values, options = view.values_tchw, self.config.options
        if len(values) > LONGEST:
            raise ModelError(f"galileo takes at most {LONGEST} frames, got {len(values)}; widen the bins")
        size, patch = int(options["image_size"] or 0), int(options["patch_size"] or 1)
        if self.contract.collection == S1_POWER:
            values = preprocess.decibels(values)
        if self.config.recipe == "authors":
            frames, slots = preprocess.fill_series_mean(values, view.valid_tchw), list(view.slots)
            months = [day.month - 1 for day in view.dates]
            ground_m = view.scale_m * max(values.shape[-2:]) / size
        else:
            filled = preprocess.fill_invalid(values, view.valid_tchw, self.contract.fill_value)
            frames = every_bin(filled, view.slots, view.n_bins, wanted=self.contract.frames.count(view.window))
            slots, ground_m = list(range(len(frames))), float(options["input_resolution_m"] or 0)
            months = [part.midpoint.month - 1 for part in equal_bins(view.window, len(frames))]
        if options["month"] is not None:
            months = [int(options["month"]) - 1] * len(months)
        frames = preprocess.resize_bilinear(preprocess.pad_to_square(frames), size)
        how = str(options["normalization"])
        if how == "recipe":
            how = "two_sigma" if self.config.recipe == "authors" else "none"
        return {
            "pixels": np.ascontiguousarray(normalised(frames, self.config.modality, how)),
            "months": np.array(months, dtype=np.int64),
            "slots": np.array(slots, dtype=np.int64),
            "step": np.array(patch * ground_m / 10.0, dtype=np.float32),
        }

    def build(self) -> nn.Module:
        """The encoder of the variant, for the groups of both modalities."""
        from rsembed.embedders.nets.galileo_net import GalileoEncoder

        size = SIZES[self.variant]
        groups = {**GROUPS["s1"], **GROUPS["s2"]}
        return GalileoEncoder(size.dim, size.depth, heads=size.heads, groups=groups, frames=LONGEST)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """One vector per ground cell."""
        tokens: Tokens = net(
            tensors["pixels"],
            list(GROUPS[self.config.modality]),
            months_bt=tensors["months"],
            slots_bt=tensors["slots"],
            step_b=tensors["step"],
            patch_px=int(self.config.options["patch_size"] or 1),
            normed=bool(self.config.options["add_layernorm_on_exit"]),
        )
        return tokens
