"""SatMAE++ (ViT-L): a masked autoencoder pre-trained at several scales, on fMoW RGB or on ten Sentinel-2 bands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.embedders import preprocess
from rsembed.embedders.base import EmbedderConfig, View
from rsembed.embedders.sentinel import AS_PHOTOGRAPH, FMOW_MEAN, FMOW_STD, RGB, S2_L1C, S2_L2A, SQUARE, only
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

RGB_PX, S2_PX = 224, 96
RGB_NORM_EPS = {"authors": 1e-6, "rs-embed": 1e-5}
# DN of fMoW-Sentinel, Level-1C, without B1, B9 and B10 (util/datasets.py, SentinelIndividualImageDataset).
S2_MEAN = (1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151,
           1846.87040806, 1762.59530783, 1972.62420416, 1732.16362238, 1247.91870117)  # fmt: skip
S2_STD = (650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639,
          1258.36394548, 1233.1492281, 1364.38688993, 1310.36996126, 1087.6020813)  # fmt: skip
S2_GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))

_RGB_BYTES = only("rgb", AS_PHOTOGRAPH)
_RGB_NORMALISE = Step("rgb: / 255, then the mean and std of the fMoW images, then float bicubic to 224", "verified")
_S2_BYTES = Step(
    "s2_10b: mean - 2 std .. mean + 2 std of each band to 0..255, decimals cut off, bytes, / 255; then float bicubic "
    "to 96; invalid pixels are DN 0 before",
    "verified",
)
_S2_NORM = Step("s2_10b: LayerNorm eps 1e-6", "verified")
_POOLED = Step(
    "pooled: mean (or max) over all patch tokens after the final norm, of all groups, no class token; the authors "
    "average patch tokens too, but fine-tune a norm of their own behind it, which the published encoder has not",
    "inferred",
)
_GRID = Step("grid: patch tokens in raster order; s2_10b: mean over the three groups of each cell", "verified")

CARD = ModelCard(
    id="satmaepp",
    title="SatMAE++ ViT-L",
    summary="Multi-scale masked autoencoder: fMoW RGB (patches of 16 px), or ten Sentinel-2 bands in three groups",
    paper="arXiv:2403.05419",
    source="https://github.com/techmn/satmae_pp",
    kind="onthefly",
    inputs={
        "rgb": InputContract(S2_L2A, RGB, scale_m=10, image_size=RGB_PX),
        "s2_10b": InputContract(
            S2_L1C, ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), scale_m=10, image_size=S2_PX,
            reference_collection=S2_L2A,
        ),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"large": 1024, "large_s2_10b": 1024},
    licence=Licence("Apache-2.0", "yes", "SatMAE++ by Noman et al. 2024 (arXiv:2403.05419)"),
    steps={
        "authors": (
            Step("rgb: Sentinel-2 Level-2A as stand-in for the high-resolution images of fMoW", "inferred"),
            _RGB_BYTES,
            Step("rgb: channels blue, green, red: the published weights were trained so (README.md, issue 2)",
                 "documented"),
            _RGB_NORMALISE,
            Step("rgb: LayerNorm eps 1e-6 (models_mae.py)", "documented"),
            Step("s2_10b: Sentinel-2 Level-1C, as in fMoW-Sentinel, whose statistics are used", "documented"),
            _S2_BYTES,
            _S2_NORM,
            SQUARE,
            Step("the authors' evaluation enlarges an image by 8 / 7 and cuts out the middle: here the footprint of "
                 "the network's own pixels is fetched, and nothing is cut off", "inferred"),
            _POOLED,
            _GRID,
        ),
        "rs-embed": (
            Step("both: Sentinel-2 Level-2A", "verified"),
            _RGB_BYTES,
            Step("rgb: channels red, green, blue", "verified"),
            _RGB_NORMALISE,
            Step("rgb: LayerNorm eps 1e-5", "verified"),
            _S2_BYTES,
            _S2_NORM,
            SQUARE,
            _POOLED,
            _GRID,
        ),
    },
    options=(
        Option("variant", "str", "large", "network size", choices=("large",), aliases={"l": "large"}),
        Option("channel_order", "str", "auto", "modality rgb: order of the channels; auto: bgr for the authors' "
               "recipe, rgb for rs-embed", choices=("auto", "rgb", "bgr")),
        Option("grid_group_reduce", "str", "mean", "modality s2_10b: how a grid's cell joins the tokens of the three "
               "groups", choices=("mean", "max")),
    ),
    weights={
        "large": WeightsFile(
            "MVRL/satmaepp_ViT-L_pretrain_fmow_rgb", "pytorch_model.bin", size_bytes=1_320_000_000,
            revision="a1a469908c143b4daae764c7768bc2978451c392", other_files=("model.safetensors",),
        ),
        "large_s2_10b": WeightsFile(
            "mubashir04/checkpoint_ViT-L_pretrain_fmow_sentinel", "checkpoint_ViT-L_pretrain_fmow_sentinel.pth",
            revision="e6792ae99987b96569993306b396c232f27ba8cc", size_bytes=3_951_109_525,
        ),
    },
    batch_size={"cpu": 8, "cuda": 32},
    notes=(
        "rgb: a grid of 14 x 14 cells of 160 m; s2_10b: 12 x 12 cells of 80 m",
        "modality s2_10b has its own weights: `rsembed weights pull satmaepp --variant large_s2_10b`",
        "the reference system gives its grid in a random order of cells, a fault that is not repeated here",
    ),
)  # fmt: skip


class SatMaePP(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels``, (3, 224, 224) or (10, 96, 96)."""

    card = CARD
    rename = ((r"^module\.", ""),)
    # The decoder and the branches that enlarge its images; the published files hold the whole autoencoder.
    drop = (r"(module\.)?(decoder_.*|mask_token|proj_up_.*|up_block\d?\..*)",)
    safe_globals = (argparse.Namespace,)  # the training arguments beside the s2_10b weights
    net_options = ("variant", "recipe")

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        super().__init__(config)
        self.multispectral = self.config.modality == "s2_10b"
        unused, neutral = ("channel_order", "auto") if self.multispectral else ("grid_group_reduce", "mean")
        if self.config.options[unused] != neutral:
            raise ModelError(f"satmaepp: {unused} has no meaning for modality {self.config.modality}; leave it out")
        if self.multispectral:
            self.wrap = ("model",)

    @property
    def variant(self) -> str:
        """Key into the card's ``dims`` and ``weights``: each modality has weights of its own."""
        return f"{super().variant}_s2_10b" if self.config.modality == "s2_10b" else super().variant

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        if self.multispectral:
            unit = preprocess.uint8_to_unit(preprocess.stretch_to_uint8(square, S2_MEAN, S2_STD))
            return {"pixels": preprocess.resize_bicubic(unit, S2_PX)}
        bytes_ = preprocess.reflectance_to_uint8(square)
        order = self.config.options["channel_order"]
        if order == "bgr" or (order == "auto" and self.config.recipe == "authors"):
            bytes_ = bytes_[::-1]  # mean and std keep their order: so do the authors' images, read as BGR
        normalised = preprocess.standardise(preprocess.uint8_to_unit(bytes_), FMOW_MEAN, FMOW_STD)
        return {"pixels": preprocess.resize_bicubic(normalised, RGB_PX)}

    def build(self) -> nn.Module:
        """The encoder of the modality; for rgb with the norm of the recipe."""
        from rsembed.embedders.nets.mae_encoders import GroupEncoder, TableEncoder

        if self.multispectral:
            return GroupEncoder(
                1024, 24, heads=16, patch_px=8, image_px=S2_PX, groups=S2_GROUPS, group_dim=256, eps=1e-6
            )
        eps = RGB_NORM_EPS[self.config.recipe]
        return TableEncoder(1024, 24, heads=16, patch_px=16, image_px=RGB_PX, eps=eps)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Patch tokens after the final norm; for a grid with the groups of each cell joined."""
        tokens: Tokens = net(tensors["pixels"])
        groups = tokens.patches_bthwd
        if not self.multispectral or self.config.output.mode == "pooled" or groups is None:
            return tokens
        keep_max = self.config.options["grid_group_reduce"] == "max"
        joined = groups.amax(1, keepdim=True) if keep_max else groups.mean(1, keepdim=True)
        return replace(tokens, patches_bthwd=joined)
