"""AnySat: one encoder for many sensors, here a series of Sentinel-2 images; a vector for a tile, a patch or a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.fetching import FramePolicy
from rsembed.embedders import preprocess, series
from rsembed.embedders.base import View
from rsembed.embedders.sentinel import S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder
from rsembed.tools.temporal import equal_bins

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
PIXEL_M, AUTHORS_PATCH_M = 10, 40
IMAGE_PX, FRAMES = 24, 8
PAD = "projector_s2.pad_parameter"

_COMMON = (
    Step("DN clipped to 0..10000", "inferred"),
    Step("per_tile_zscore: (DN - mean) / std of this very input, per band over its frames and pixels. The authors take "
         "mean and std of a data set and publish none", "inferred"),
    SQUARE,
    Step("other sizes: bilinear without antialias to 24, before normalisation", "inferred"),
    Step("pixels in time by lightweight temporal attention, then the pixels of a patch, then patches", "verified"),
    Step("distances enter by the first head's query for all heads, as in the authors' code", "verified"),
    Step("pooled: mean (or max) over the patches; pooled_source=tile: the class token", "verified"),
    Step("grid: dense, each pixel with its patch's vector before its own; or patch", "verified"),
)  # fmt: skip

CARD = ModelCard(
    id="anysat",
    title="AnySat",
    summary="Joint-embedding encoder for any resolution: a dated series of ten-band Sentinel-2 images of 240 m",
    paper="arXiv:2412.14123",
    source="https://github.com/gastruc/AnySat",
    kind="onthefly",
    inputs={
        "s2": InputContract(
            S2_L2A, BANDS, scale_m=PIXEL_M, image_size=IMAGE_PX,
            # Eight parts, or one a day where the window is shorter.
            frames=FramePolicy("auto", frame_days=1, max_frames=FRAMES),
        )
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"base": 768},
    licence=Licence("MIT", "yes", "AnySat by Astruc et al. 2025 (MIT)"),
    steps={
        "authors": (
            Step("frames: 8 equal parts of the window, empty ones left out: a series may have any length", "inferred"),
            Step("dates: day of the year, from 0, of each frame's median acquisition (README)", "documented"),
            Step("patches of 40 m, 4 x 4 pixels of 10 m, the least of what the authors work with on wide tiles; always "
                 "pixels of 10 m", "documented"),
            Step("invalid pixels take no part in the statistics, and enter as the learned pad value (the projector's "
                 "mask)", "documented"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("frames: 8 equal parts of the window; one image in hand is repeated", "verified"),
            Step("an empty part takes the median of the other frames, where the reference has the composite of the "
                 "whole window", "inferred"),
            Step("dates: day of the year, from 0 to at most 364, of each part's middle", "verified"),
            Step("patches as large as scale_m, by pixels told to be of 10 m: one pixel at 10 m, 2 x 2 at 20 m",
                 "verified"),
            Step("invalid pixels DN 0, which count", "verified"),
            *_COMMON,
        ),
    },
    options=(
        Option("variant", "str", "base", "network size; only base is published", choices=("base",)),
        Option("patch_size_m", "int", None, "metres a side of a patch, a multiple of 10; left out: 40, or scale_m by "
               "recipe rs-embed", minimum=PIXEL_M, maximum=10240),
        Option("n_frames", "int", FRAMES, "equal parts of the window", minimum=1, maximum=366),
        Option("image_size", "int", IMAGE_PX, "input pixels, whole patches", minimum=1, maximum=512),
        Option("normalization", "str", "per_tile_zscore", "per_tile_zscore; unit_scale: DN / 10000; none: DN",
               choices=("per_tile_zscore", "unit_scale", "none")),
        Option("grid_feature_mode", "str", "dense", "a grid of pixels (1536 numbers) or of patches (768)",
               choices=("dense", "patch")),
        Option("pooled_source", "str", "patch", "pooled: over the patches, or the tile's class token",
               choices=("patch", "tile")),
    ),
    weights={"base": WeightsFile("g-astruc/AnySat", "models/AnySat.pth", size_bytes=504_000_000)},
    batch_size={"cpu": 4, "cuda": 32},
    notes=(
        "a tile is 240 m: 6 x 6 patches of 40 m, 24 x 24 pixels",
        "contrast within the tile and the series remains, its brightness does not (per_tile_zscore)",
        "the projectors of the other ten sensors are left out",
    ),
)  # fmt: skip


class AnySat(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (T, 10, n, n), ``s2_dates`` (T,), authors also ``valid`` like ``pixels``."""

    card = CARD
    wrap, bare = ("state_dict",), True
    rename = (
        (r"^projector_s2\.pad_parameter$", "projector.pad"),
        (r"^projector_s2\.patch_embed\.", "projector."),
        *((rf"^projector\.inconv\.{4 * i}\.", f"projector.layers.{i}.fc.") for i in range(5)),
        *((rf"^projector\.inconv\.{4 * i + 1}\.", f"projector.layers.{i}.norm.") for i in range(5)),
        (r"^projector\.attention_heads\.Q$", "projector.attention.query"),
        (r"^projector\.attention_heads\.fc1_k\.", "projector.attention.key."),
        (r"^projector\.mlp\.0\.", "projector.out_layer.fc."),
        (r"^projector\.mlp\.1\.", "projector.out_layer.norm."),
        (r"^spatial_encoder\.predictor_", "patch_encoder."),
        (r"^spatial_encoder\.", "patch_encoder."),
        (r"^blocks\.6\.", "last."),
        (r"^last\.attn\.q_learned$", "last.attn.query"),
        (r"^last\.attn\.w([kv])\.", r"last.attn.\1."),
        (r"\.rpe_k\.lookup_table_weight$", ".distances.table"),
    )
    drop = (r"projector_(?!s2\.).*",)  # of the other sensors

    @property
    def own_vector(self) -> bool:
        """Whether the tile's class token is the answer."""
        return self.config.options["pooled_source"] == "tile"

    @property
    def contract(self) -> InputContract:
        """The card's contract with the frames and the size of the options."""
        contract, options, output = super().contract, self.config.options, self.config.output
        frames, count = contract.frames, int(options["n_frames"] or 1)
        if self.config.recipe == "rs-embed":
            frames = FramePolicy("multi", n_frames=count)
        elif contract.scale_m != PIXEL_M:
            raise ModelError(f"anysat takes pixels of {PIXEL_M} m, got {contract.scale_m:g}; see option patch_size_m")
        elif self.own_vector and output.mode == "pooled" and output.pooling != "mean":
            raise ModelError("anysat: pooled_source=tile is one vector; leave pooling at 'mean', or pool patches")
        size, patch = int(options["image_size"] or 0), self._patch_px(contract.scale_m)
        if size % patch:
            raise ModelError(f"anysat: image_size must be a multiple of {patch} pixels, the patch's side; got {size}")
        return replace(contract, frames=replace(frames, max_frames=count), image_size=size)

    def _patch_px(self, scale_m: float) -> int:
        usual = AUTHORS_PATCH_M if self.config.recipe == "authors" else scale_m
        metres = float(self.config.options["patch_size_m"] or usual)
        if metres % PIXEL_M:
            raise ModelError(f"anysat: a patch is a multiple of {PIXEL_M} m a side, got {metres:g} m")
        return int(metres // PIXEL_M)

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        contract = self.contract
        frames = preprocess.clip_dn(preprocess.fill_invalid(view.values_tchw, view.valid_tchw, contract.fill_value))
        if self.config.recipe == "authors":
            good = preprocess.usable(view.values_tchw, view.valid_tchw)
            frames, good = series.resize_where_valid(frames, good, contract.image_size)
            days = series.days_of_year(view.dates)
            return {"pixels": self._normalised(frames, good), "valid": good, "s2_dates": days}
        frames = series.every_bin(frames, view.slots, view.n_bins, wanted=contract.frames.count(view.window))
        resized = preprocess.resize_bilinear(preprocess.pad_to_square(frames), contract.image_size)
        days = series.days_of_year([part.midpoint for part in equal_bins(view.window, len(frames))])
        return {"pixels": self._normalised(resized, np.ones(resized.shape, bool)), "s2_dates": days}

    def _normalised(self, frames: preprocess.Floats, valid: preprocess.Mask) -> preprocess.Floats:
        how = self.config.options["normalization"]
        if how == "per_tile_zscore":
            return series.standardise_by_itself(frames, valid)
        return preprocess.reflectance(frames) if how == "unit_scale" else frames

    def complete(self, state: dict[str, Tensor]) -> None:
        """The pad value is a number, or a vector of one number as some tools write it."""
        if PAD in state and state[PAD].shape == (1,):
            state[PAD] = state[PAD][0]

    def build(self) -> nn.Module:
        """The encoder with its projector for Sentinel-2."""
        from rsembed.embedders.nets.anysat_net import AnySatEncoder

        return AnySatEncoder(768, 6, heads=12, channels=len(BANDS))

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """The tile's vector, and one for each patch or, for a dense grid, for each pixel."""
        from rsembed.embedders.nets.tokens import Tokens

        found = net(
            tensors["pixels"],
            tensors["s2_dates"],
            patch_px=self._patch_px(self.contract.scale_m),
            valid_btchw=tensors.get("valid"),
        )
        dense = self.config.output.mode == "grid" and self.config.options["grid_feature_mode"] == "dense"
        return Tokens(patches_bthwd=(found.dense if dense else found.patches)[:, None], vector=found.tile)
