"""WildSAT: ImageNet classifiers tuned with wildlife observations; RGB at 224 pixels."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import Floats, View
from rsembed.embedders.renames import TORCH_ATTENTION
from rsembed.embedders.sentinel import RGB, S2_L1C, S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

IMAGE_PX = 224
CLASSES, OUT_DIM, BRANCHES = 1000, 256, 3
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
FILES = {
    "vitb16": ("1IxBpf3nbEMzny4YJWS6stMBxel6gMiYE", 350_000_000),
    "resnet50": ("1LwCjzT1p0yFOtv1m0YD-rl7tP0eYXTb2", 106_000_000),
    "swint": ("12rfb3ES9-RuIAk_RjzYrMQJG_5J1Iq5H", 116_000_000),
}
"""Variant -> id on Google Drive, bytes of the satellite tensors alone."""

_SCORES = Step("no mean and std of ImageNet; the backbone's answer is its 1000 class scores", "verified")
_POOLED = Step("pooled: the scores through the third linear head, which was trained on pairs of images", "verified")
_GRID = Step("grid: vitb16 patch tokens after the encoder's norm; the others one cell, the pooled vector", "inferred")

CARD = ModelCard(
    id="wildsat",
    title="WildSAT",
    summary="ImageNet ViT-B/16, ResNet-50 or Swin-T tuned on satellite images with wildlife and texts; one RGB image",
    paper="arXiv:2412.14428",
    source="https://github.com/cvl-umass/wildsat",
    kind="onthefly",
    inputs={"s2": InputContract(S2_L1C, RGB, scale_m=10, image_size=IMAGE_PX, reference_collection=S2_L2A)},
    outputs=("pooled", "grid"),
    pooling="vector",
    dims=dict.fromkeys(FILES, OUT_DIM),
    licence=Licence(
        "none stated, for code and weights", "unknown", "WildSAT by Daroya et al. 2025 (arXiv:2412.14428)"
    ),
    steps={
        "authors": (
            Step("Sentinel-2 Level-1C: the authors' images are those of SatlasPretrain", "documented"),
            Step("bytes as in ESA's true-colour image: 255 at DN 3558, decimals cut off; invalid pixels 0; / 255",
                 "documented"),
            SQUARE,
            Step("bilinear with antialias on numbers to 224 (quickstart.ipynb; torchvision's Resize)", "documented"),
            Step("minmax: minus the image's minimum, over its maximum or 1 if that is smaller: contrast is not "
                 "stretched (dataset/satlas_sentinel.py); an image of one value gives zeros", "documented"),
            _SCORES,
            _POOLED,
            _GRID,
        ),
        "rs-embed": (
            Step("Sentinel-2 Level-2A; DN / 10000, clipped to 0..1; invalid pixels 0", "verified"),
            Step("minmax: stretched from the least to the largest value of all bands, before any resizing; a spread of "
                 "at most 1e-6 gives zeros", "verified"),
            Step("times 255, decimals cut off, bytes", "verified"),
            SQUARE,
            Step("bicubic with antialias on bytes to 224 (Pillow), / 255", "verified"),
            _SCORES,
            _POOLED,
            _GRID,
        ),
    },
    options=(
        Option("variant", "str", "vitb16", "backbone", choices=tuple(FILES),
               aliases={"vit": "vitb16", "vit_b_16": "vitb16", "vit-b-16": "vitb16", "vit-b/16": "vitb16",
                        "resnet": "resnet50", "rn50": "resnet50",
                        "swin": "swint", "swin_t": "swint", "swin-t": "swint", "swin_tiny": "swint"}),
        Option("feature", "str", "image_head", "image_head: 256 numbers of a head; backbone: the 1000 class scores",
               choices=("image_head", "backbone"), aliases={"auto": "image_head"}),
        Option("image_branch", "int", BRANCHES, "which head: 1 trained with texts, 2 with places, 3 with images",
               choices=tuple(range(1, BRANCHES + 1))),
        Option("norm", "str", "minmax", "contrast: minmax as the recipe has it, or unit_scale: none",
               choices=("minmax", "unit_scale"), aliases={"none": "unit_scale"}),
    ),
    weights={
        variant: WeightsFile(None, f"{variant}-imagenet-bnfc.pth", url=DRIVE + key, size_bytes=about)
        for variant, (key, about) in FILES.items()
    },
    notes=(
        "the authors give no checksum; the one of the first download is written into a run's weights.lock",
        "the pooled vector and the grid of vitb16 live in different spaces",
        "a region smaller than 2240 m gets the vector of the whole native footprint",
        "the authors trained on 512 px of about 10 m, for vitb16 shrunk to 224: buffer_m=2560 with input_prep='resize'",
        "where a provider has no Level-1C: name COPERNICUS/S2_SR_HARMONIZED in a sensor, or take recipe='rs-embed'",
    ),
)  # fmt: skip


def from_zero(units: Floats) -> Floats:
    """``units`` minus their least value, over their largest or 1; zeros where all are equal."""
    moved: Floats = units - units.min()
    scaled: Floats = moved / np.maximum(moved.max(), np.float32(1.0))
    return scaled


def full_contrast(units: Floats) -> Floats:
    """``units`` stretched to 0..1 over all bands together; zeros where they span at most 1e-6."""
    low, high = units.min(), units.max()
    return (units - low) / (high - low) if high - low > 1e-6 else np.zeros_like(units)


class WildSat(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (3, 224, 224)."""

    card = CARD
    wrap = ("satellite_state_dict",)
    safe_globals = (argparse.Namespace,)  # the training's arguments, beside the tensors
    rename = (
        (r"^module\.", ""),
        (r"^decoder\.backbone3\.0\.", "branches.2."),
        (r"^decoder\.backbone2\.0\.", "branches.1."),
        (r"^decoder\.backbone1\.0\.", "branches.0."),
        (r"^backbone\.(fc|heads\.head|head)\.", "classifier."),
        (r"^backbone\.", "trunk."),
        # torchvision's ViT
        (r"^trunk\.class_token$", "trunk.cls_token"),
        (r"^trunk\.conv_proj\.", "trunk.patch_embed.proj."),
        (r"^trunk\.encoder\.pos_embedding$", "trunk.pos_embed"),
        (r"^trunk\.encoder\.layers\.encoder_layer_(\d+)\.", r"trunk.blocks.\1."),
        (r"^trunk\.encoder\.ln\.", "trunk.norm."),
        (r"\.ln_([12])\.", r".norm\1."),
        *TORCH_ATTENTION,
        (r"\.self_attention\.", ".attn."),
        # torchvision's Swin: stages at the odd places of `features`, merges at the even ones
        (r"^trunk\.features\.0\.0\.", "trunk.patch_embed.proj."),
        (r"^trunk\.features\.0\.2\.", "trunk.patch_norm."),
        *((rf"^trunk\.features\.{2 * i + 1}\.", f"trunk.stages.{i}.") for i in range(4)),
        *((rf"^trunk\.features\.{2 * i + 2}\.", f"trunk.merges.{i}.") for i in range(3)),
        (r"\.relative_position_bias_table$", ".bias_table"),
        # both
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
    )
    drop = (r".*\.relative_position_index",)  # computed

    @property
    def dim(self) -> int:
        """Length of the pooled vector, by the option ``feature``."""
        return CLASSES if self.config.options["feature"] == "backbone" else super().dim

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        stretched = self.config.options["norm"] == "minmax"
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        if self.config.recipe == "authors":
            units = preprocess.uint8_to_unit(preprocess.satlas_to_uint8(square, RGB))
            resized = preprocess.resize_bilinear(units, IMAGE_PX, antialias=True)
            return {"pixels": from_zero(resized) if stretched else resized}
        units = preprocess.reflectance(square)
        bytes_ = preprocess.unit_to_uint8(full_contrast(units) if stretched else units)
        return {"pixels": preprocess.uint8_to_unit(preprocess.resize_bicubic_uint8(bytes_, IMAGE_PX))}

    def build(self) -> nn.Module:
        """The classifier of the variant with its three heads."""
        from rsembed.embedders.nets.mae_encoders import TableEncoder
        from rsembed.embedders.nets.projected_classifier import ProjectedClassifier
        from rsembed.embedders.nets.resnet import ResNet
        from rsembed.embedders.nets.swin import Swin

        trunk: nn.Module
        if self.variant == "vitb16":
            trunk, width = TableEncoder(768, 12, heads=12, patch_px=16, image_px=IMAGE_PX, eps=1e-6), 768
        elif self.variant == "resnet50":
            trunk, width = ResNet((3, 4, 6, 3)), 2048
        else:
            trunk, width = Swin(96, (2, 2, 6, 2), heads=(3, 6, 12, 24)), 768
        return ProjectedClassifier(trunk, width, classes=CLASSES, out_dim=OUT_DIM, branches=BRANCHES)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """The image's vector; the grid is the patch tokens of a ViT, else the vector as its one cell."""
        options = self.config.options
        branch = int(options["image_branch"] or BRANCHES) - 1 if options["feature"] == "image_head" else None
        tokens: Tokens = net(tensors["pixels"], branch)
        if self.variant == "vitb16" or tokens.vector is None:
            return tokens
        return replace(tokens, patches_bthwd=tokens.vector[:, None, None, None])
