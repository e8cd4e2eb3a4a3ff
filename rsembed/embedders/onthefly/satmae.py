"""SatMAE (ViT-L/16) pre-trained on the RGB images of fMoW: a masked autoencoder's encoder at 224 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.sentinel import AS_PHOTOGRAPH, FMOW_MEAN, FMOW_STD, RGB, S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

IMAGE_PX = 224
PATCH_PX = 16
NORM_EPS = {"authors": 1e-6, "rs-embed": 1e-5}

_NORMALISE = Step("/ 255, then the mean and std of the fMoW images", "verified")
_POOLED = Step(
    "pooled: mean (or max) over the patch tokens after the final norm, no class token; the authors average patch "
    "tokens too, but fine-tune a norm of their own behind it, which the published encoder has not",
    "inferred",
)
_GRID = Step("grid: patch tokens after the final norm, in raster order", "verified")

CARD = ModelCard(
    id="satmae",
    title="SatMAE ViT-L/16 (fMoW RGB)",
    summary="Masked autoencoder pre-trained on the high-resolution RGB images of fMoW; one RGB composite",
    paper="arXiv:2207.08051",
    source="https://github.com/sustainlab-group/SatMAE",
    kind="onthefly",
    inputs={"s2": InputContract(S2_L2A, RGB, scale_m=10, image_size=IMAGE_PX)},
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 1024},
    licence=Licence("CC-BY-NC-4.0", "no", "SatMAE by Cong et al. 2022 (arXiv:2207.08051)"),
    steps={
        "authors": (
            AS_PHOTOGRAPH,
            SQUARE,
            Step(
                "bicubic with antialias on bytes to 224 (Pillow). The authors' evaluation enlarges an image to 256 and "
                "cuts out the middle 224: here the footprint of these 224 pixels is fetched, and nothing is cut off",
                "inferred",
            ),
            _NORMALISE,
            Step("LayerNorm eps 1e-6 (models_mae.py, models_vit.py)", "documented"),
            _POOLED,
            _GRID,
        ),
        "rs-embed": (
            AS_PHOTOGRAPH,
            SQUARE,
            Step("bicubic with antialias on bytes to 224 (Pillow), no crop", "verified"),
            _NORMALISE,
            Step("LayerNorm eps 1e-5", "verified"),
            _POOLED,
            _GRID,
        ),
    },
    weights={
        "": WeightsFile(
            repo="MVRL/satmae-vitlarge-fmow-pretrain-800",
            file="model.safetensors",
            revision="deb650b7e58d9de4748fefd4e864c3e516e73ab2",
            size_bytes=1_320_000_000,
            other_files=("pytorch_model.bin",),
        )
    },
    batch_size={"cpu": 8, "cuda": 32},
    notes=(
        "patches are 16 px: a grid of 14 x 14 cells of 160 m",
        "pre-trained at 0.3 m to a few metres a pixel; Sentinel-2 is far coarser",
        "the licence is that of the authors' repository; the upload of the weights names none",
        "the reference system gives its grid in a random order of cells, a fault that is not repeated here",
    ),
)


class SatMae(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (3, 224, 224)."""

    card = CARD
    # The decoder; the published file holds the whole autoencoder.
    drop = (r"decoder_.*", r"mask_token")
    net_options = ("recipe",)

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        return {"pixels": preprocess.photograph(square, IMAGE_PX, FMOW_MEAN, FMOW_STD)}

    def build(self) -> nn.Module:
        """The encoder, with the norm of the recipe."""
        from rsembed.embedders.nets.mae_encoders import TableEncoder

        eps = NORM_EPS[self.config.recipe]
        return TableEncoder(1024, 24, heads=16, patch_px=PATCH_PX, image_px=IMAGE_PX, eps=eps)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Patch tokens after the final norm."""
        tokens: Tokens = net(tensors["pixels"])
        return tokens
