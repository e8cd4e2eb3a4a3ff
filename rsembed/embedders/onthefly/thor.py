"""THOR 1.0: a ViT for bands of any pixel size and patches of any size; here Sentinel-2 or Sentinel-1 at 10 m."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.onthefly.thor_bands import BANDS, Band
from rsembed.embedders.snapping import Snapping, central_square, roi_in_square
from rsembed.embedders.torch_model import TorchEmbedder
from rsembed.tools.tiling import FULL, Box

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Size(NamedTuple):
    """Shape of a variant's encoder; ``code_dim``: length of a band group's code."""

    dim: int
    depth: int
    heads: int
    code_dim: int


SIZES = {"tiny": Size(192, 12, 3, 32), "small": Size(384, 12, 6, 64), "base": Size(768, 12, 12, 128),
         "large": Size(1024, 24, 16, 256)}  # fmt: skip
S2, S1, S1_DECIBEL = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD_FLOAT", "COPERNICUS/S1_GRD"
NATIVE_PX, MAX_PX, SIGMAS = 288, 384, np.float32(5.0)

_COMMON = (
    Step("images up to 384 px and 3000 tokens go in at their own pixel size, cut or padded around the centre to whole "
         "tokens; others (and those over 8 px from a square): normalised, then bilinear to 288", "inferred"),
    Step("the 20 m bands: bilinear to 20 m", "verified"),
    Step("without B1 and B9, as in the authors' embedding_generation.yaml", "documented"),
    Step("patches of 8 px of each group's own pixels; tokens of the last block, without the final norm", "verified"),
    Step("pooled: mean (or max) over the tokens of all groups; four 10 m tokens for each 20 m one", "inferred"),
    Step("grid: groups bilinear to the finest one, then their mean", "verified"),
)  # fmt: skip

CARD = ModelCard(
    id="thor",
    title="THOR 1.0",
    summary="Masked autoencoder over Sentinel-1, -2 and -3 with flexible patches; one composite of ten bands, or VV/VH",
    paper="arXiv:2601.16011",
    source="https://github.com/FM4CS/THOR",
    kind="onthefly",
    inputs={
        "s2": InputContract(S2, tuple(BANDS["s2"]), 10, NATIVE_PX, any_size=True),
        "s1": InputContract(S1, tuple(BANDS["s1"]), 10, NATIVE_PX, any_size=True, orbit="most_images"),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={name: size.dim for name, size in SIZES.items()},
    licence=Licence("weights Apache-2.0, code MIT", "yes", "THOR by Forgaard et al. 2026 (arXiv:2601.16011)"),
    steps={
        "authors": (
            Step("s2: (DN / 10000 - mean) / std, clamped to 5 sigma, no other clipping", "documented"),
            Step("s1: one orbit pass, mode IW; (10 log10 power - mean) / std, clamped to 5 sigma", "documented"),
            Step("invalid pixels and padding: 0 after normalisation (normalise_for_thor, their crops)", "documented"),
            Step("the ground a token covers is told as it is, also where the image was resized", "documented"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("s2: invalid pixels 0, DN / 10000 clipped to 0..1, (x - mean) / std", "verified"),
            Step("s1: passes mixed; invalid pixels 0, log(1 + power) / its 99th percentile, 0..1", "verified"),
            Step("padding: 0 before normalisation; padded ground counts in the pooled vector", "verified"),
            Step("a resized image is told to have 10 m pixels, whatever it covers", "verified"),
            *_COMMON,
        ),
    },
    options=(
        Option("variant", "str", "base", "network size", choices=tuple(SIZES),
               aliases={alias: name for name in SIZES for alias in (name[0], f"thor_v1_{name}")}),
        Option("patch_size", "int", 8, "pixels a side of a token; smaller is finer and slower", minimum=4, maximum=32),
        Option("group_merge", "str", "mean", "how a grid joins the groups", choices=("mean", "sum", "concat")),
        Option("resize_mode", "str", "native_snap", "keep the pixel size, or resize all to image_size",
               choices=("native_snap", "fixed")),
        Option("image_size", "int", NATIVE_PX, "native pixels, and what is resized to", minimum=16, maximum=768),
    ),
    weights={name: WeightsFile(f"FM4CS/THOR-1.0-{name}", f"thor_v1_vit_{name}.pt") for name in SIZES},
    batch_size={"cpu": 4, "cuda": 32},
    notes=("at 288 px and patches of 8 px: 36 x 36 cells of 80 m; with s2 another 18 x 18 of 160 m",),
)  # fmt: skip


class Thor(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (10 or 2, n, n), ``stretch`` (): true over assumed size of a pixel."""

    card = CARD
    wrap, bare = ("state_dict",), True
    rename = (
        (r"^encoder\.ind_patch_embed\.patch_embed\.", "bands."),
        (r"^encoder\.band_embed\.", "group_codes."),
        (r"^encoder\.encoder_slopes$", "slopes"),
        (r"^encoder\.", ""),
    )
    # The decoder, tables of other position codes, the norm that the features skip, and bands that are not offered.
    drop = (
        r"(?!encoder\.).*",
        r"encoder\.(decoder_|decode_|ref_pos_embed|pos_embed|norm\.).*",
        r"encoder\.ind_patch_embed\.patch_embed\.(S3:\w+|S1:H[VH]|S2:CoastAerosal|S2:WaterVapor)\.\w+",
        r"encoder\.band_embed\.group[2456789]",
    )

    @property
    def bands(self) -> list[Band]:
        """What the channels of the input are."""
        return list(BANDS[self.config.modality].values())

    @property
    def contract(self) -> InputContract:
        """The card's contract with the size of the options."""
        options = self.config.options
        size, unit = int(options["image_size"] or 0), self.snapping.unit_px
        if size % unit:
            raise ModelError(f"thor: image_size must be a multiple of {unit} at this patch_size and scale, got {size}")
        return replace(super().contract, image_size=size, any_size=options["resize_mode"] == "native_snap")

    @property
    def snapping(self) -> Snapping:
        """Which tiles go in at their own pixel size, and how large."""
        patch, fixed = int(self.config.options["patch_size"] or 0), self.config.options["resize_mode"] == "fixed"
        tokens_m = frozenset(patch * band.gsd_m for band in self.bands)
        return Snapping(super().contract.scale_m, tokens_m, max_px=0 if fixed else MAX_PX)

    def region(self, roi: Box, height: int, width: int) -> Box:
        """``roi`` in the input, which shares its centre with the tile."""
        side = self.snapping.side_px(height, width)
        if side is None or (roi == FULL and self.config.recipe == "rs-embed"):
            return roi
        return roi_in_square(roi, height, width, side)

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        values, valid = preprocess.only_frame(view.values_tchw, view.valid_tchw)
        side, stretch = self.snapping.side_px(*values.shape[-2:]), 1.0
        if side is not None:
            pixels = self._normalised(central_square(values, side), central_square(valid, side))
        else:
            size = self.contract.image_size
            pixels = preprocess.resize_bilinear(self._normalised(values, valid), size)
            if self.config.recipe == "authors":  # a stretched rectangle counts as a square of its area
                stretch = math.sqrt(values[0].size) / size
        return {"pixels": pixels, "stretch": np.array(stretch, dtype=np.float32)}

    def _normalised(self, values: preprocess.Floats, valid: preprocess.Mask) -> preprocess.Floats:
        mean, std = [band.mean for band in self.bands], [band.std for band in self.bands]
        filled = preprocess.fill_invalid(values, valid, self.contract.fill_value)
        radar, reference = self.config.modality == "s1", self.config.recipe == "rs-embed"
        if reference and radar:
            return preprocess.log_power_to_unit(filled)
        if reference:
            return preprocess.standardise(preprocess.reflectance(filled), mean, std)
        if not radar:
            filled = filled / np.float32(preprocess.S2_SCALE)
        elif self.contract.collection != S1_DECIBEL:
            filled = preprocess.decibels(filled)
        sigmas = np.clip(preprocess.standardise(filled, mean, std), -SIGMAS, SIGMAS)
        return preprocess.fill_invalid(sigmas, preprocess.usable(values, valid))

    def complete(self, state: dict[str, Tensor]) -> None:
        """The slopes of the attention's bias follow from the number of heads."""
        from rsembed.embedders.nets.thor_net import alibi_slopes

        state.setdefault("encoder.encoder_slopes", alibi_slopes(SIZES[self.variant].heads))

    def build(self) -> nn.Module:
        """The encoder of the variant, for the bands of both modalities."""
        from rsembed.embedders.nets.thor_net import ThorEncoder

        size = SIZES[self.variant]
        bands = [band for table in BANDS.values() for band in table.values()]
        return ThorEncoder(size.dim, size.depth, heads=size.heads, code_dim=size.code_dim, bands=bands)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """The region's vector over the tokens of all groups, or one grid of them."""
        from rsembed.embedders.nets.thor_net import merge_grids
        from rsembed.embedders.nets.tokens import Tokens
        from rsembed.embedders.pooling import pool_grids

        pixels, output, options = tensors["pixels"], self.config.output, self.config.options
        cover_m, patch_px = pixels.shape[-1] * self.contract.scale_m, int(options["patch_size"] or 0)
        grids = net(pixels, self.bands, cover_m=cover_m, stretch_b=tensors["stretch"], patch_px=patch_px)
        if output.mode == "grid":
            return Tokens(patches_bthwd=merge_grids(grids, str(options["group_merge"]))[:, None])
        return Tokens(vector=pool_grids(grids, tensors["roi"], output.pooling))
