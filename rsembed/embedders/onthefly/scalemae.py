"""Scale-MAE (ViT-L/16): a masked autoencoder whose positions are distances on the ground; fMoW RGB at 224 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import EmbedderConfig, View
from rsembed.embedders.options import check_output
from rsembed.embedders.sentinel import AS_PHOTOGRAPH, RGB, S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

# ImageNet's, which the authors chose over those of fMoW (config/fmow.yaml).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
IMAGE_PX = 224
NATIVE_M = 10.0

_PIXELS = (
    AS_PHOTOGRAPH,
    SQUARE,
    Step("bicubic with antialias on bytes to 224 (Pillow), no crop", "inferred"),
    Step("/ 255, then ImageNet's mean and std", "verified"),
)

CARD = ModelCard(
    id="scalemae",
    title="Scale-MAE ViT-L/16 (fMoW RGB)",
    summary="Masked autoencoder with positions in units of ground distance; one RGB composite and its pixel size",
    paper="arXiv:2212.14532",
    source="https://github.com/bair-climate-initiative/scale-mae",
    kind="onthefly",
    inputs={"s2": InputContract(S2_L2A, RGB, scale_m=NATIVE_M, image_size=IMAGE_PX)},
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 1024},
    licence=Licence("CC-BY-NC-4.0", "no", "Scale-MAE by Reed et al. 2023 (arXiv:2212.14532)"),
    steps={
        "authors": (
            *_PIXELS,
            Step(
                "resolution: 1.0 for 10 m pixels, in proportion otherwise. The authors' features take 1.0 whatever the "
                "sensor (eval/knn.py), their training 2.5 times the pixel size relative to the whole image",
                "documented",
            ),
            Step("final norm on all tokens (models_vit.py, models_mae.py)", "documented"),
            Step("pooled: class token, as in the authors' kNN evaluation (models_mae.py, knn_feats)", "documented"),
            Step("grid: patch tokens after the final norm", "inferred"),
        ),
        "rs-embed": (
            *_PIXELS,
            Step("resolution: metres per pixel of the network's input (10 m at 224 px)", "verified"),
            Step("no final norm: raw output of block 24", "verified"),
            Step("pooled: mean (or max) over patch tokens, no class token", "verified"),
            Step("grid: the same patch tokens", "verified"),
        ),
    },
    weights={
        "": WeightsFile(
            repo="MVRL/scalemae-vitlarge-800",
            file="pytorch_model.bin",
            revision="e323e809d77bbd02678098343aea59b4780eebd6",
            size_bytes=1_210_000_000,
            other_files=("model.safetensors",),
        )
    },
    batch_size={"cpu": 8, "cuda": 32},
    notes=(
        "patches are 16 px: a grid of 14 x 14 cells of 160 m",
        "authors' recipe: the vector is the class token, that of the whole native footprint (2240 m); no pooling='max'",
        "the licence is that of the authors' repository and release; the upload used here is tagged Apache-2.0",
    ),
)


class ScaleMae(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (3, 224, 224), ``input_res`` (), a number per input."""

    card = CARD
    rename = ((r"^model\.", ""),)
    net_options = ()

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        super().__init__(config)
        if self.own_vector:
            check_output(replace(self.card, pooling="vector"), self.config.output)

    @property
    def own_vector(self) -> bool:
        """The authors' features are the class token; the reference pools patch tokens."""
        return self.config.recipe == "authors"

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        pixel_m = view.scale_m * square.shape[-1] / IMAGE_PX
        resolution = pixel_m / NATIVE_M if self.config.recipe == "authors" else pixel_m
        return {
            "pixels": preprocess.photograph(square, IMAGE_PX, MEAN, STD),
            "input_res": np.array(resolution, dtype=np.float32),
        }

    def build(self) -> nn.Module:
        """The encoder; both recipes share it."""
        from rsembed.embedders.nets.mae_encoders import ScaleEncoder

        return ScaleEncoder(1024, 24, heads=16, patch_px=16, eps=1e-6)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Patch tokens, and for the authors' recipe the class token as the image's vector."""
        authors = self.config.recipe == "authors"
        tokens: Tokens = net(tensors["pixels"], tensors["input_res"], final_norm=authors)
        return replace(tokens, vector=tokens.cls) if authors else tokens
