"""DOFA: a ViT that takes any bands, because their wavelengths generate its patch embedding; Sentinel-2 here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.renames import TORCH_ENCODER_LAYER
from rsembed.embedders.sentinel import S2_L1C, S2_L2A, SQUARE, SpectralBand
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Size(NamedTuple):
    """Shape of a variant's encoder; ``file_bytes`` about."""

    dim: int
    depth: int
    heads: int
    file_bytes: int


# Mean and std of the authors' 8-bit images (README.md, S2_MEAN).
BANDS = {
    "B4": SpectralBand(0.665, 114.1099739, 77.84352553),
    "B3": SpectralBand(0.560, 114.81779093, 69.96844919),
    "B2": SpectralBand(0.490, 126.63977424, 67.42465279),
    "B5": SpectralBand(0.705, 84.33539309, 64.57022983),
    "B6": SpectralBand(0.740, 97.84789168, 61.72545487),
    "B7": SpectralBand(0.783, 103.94461911, 61.34187099),
    "B8": SpectralBand(0.842, 101.435633, 60.29744676),
    "B11": SpectralBand(1.610, 72.32804172, 47.88519516),
    "B12": SpectralBand(2.190, 56.66528851, 42.55886798),
}
SIZES = {"base": Size(768, 12, 12, 448_000_000), "large": Size(1024, 24, 16, 1_353_000_000)}
IMAGE_PX = 224

_NORMALISE = Step("mean and std per band, of the authors' 8-bit Sentinel-2 images (README.md)", "verified")
_RESIZE = "bilinear without antialias to 224"
_WAVELENGTHS = Step("wavelengths of the bands in micrometres, 0.49 for B2 to 2.19 for B12 (README.md)", "verified")
_GRID = Step("grid: patch tokens of the last block without a norm", "inferred")

CARD = ModelCard(
    id="dofa",
    title="DOFA",
    summary="ViT with a patch embedding generated from wavelengths; nine Sentinel-2 bands, or any of them",
    paper="arXiv:2403.15356",
    source="https://github.com/zhu-xlab/DOFA",
    kind="onthefly",
    inputs={"s2": InputContract(S2_L1C, tuple(BANDS), scale_m=10, image_size=IMAGE_PX, reference_collection=S2_L2A)},
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={variant: size.dim for variant, size in SIZES.items()},
    licence=Licence(
        "code MIT; no separate licence of the weights seen", "unknown", "DOFA by Xiong et al. 2024 (arXiv:2403.15356)"
    ),
    steps={
        "authors": (
            Step("Sentinel-2 Level-1C: the authors' images are those of SatlasPretrain", "documented"),
            Step("bytes as in SatlasPretrain: B4, B3, B2 as in ESA's true-colour image (255 at DN 3558), the others "
                 "DN / 32, decimals cut off, at most 255; invalid pixels 0", "documented"),
            _NORMALISE,
            SQUARE,
            Step(_RESIZE, "inferred"),
            _WAVELENGTHS,
            Step("pooled: mean (or max) of the patch tokens, then LayerNorm without scale and shift: the authors have "
                 "a norm there that their weights leave at its start (README.md, missing keys)", "documented"),
            _GRID,
        ),
        "rs-embed": (
            Step("Sentinel-2 Level-2A", "verified"),
            Step("DN / 10000, clipped to 0..1, times 255, not rounded; invalid pixels 0", "verified"),
            _NORMALISE,
            SQUARE,
            Step(_RESIZE, "verified"),
            _WAVELENGTHS,
            Step("pooled: mean (or max) of the patch tokens, then the pre-training's LayerNorm of tokens", "verified"),
            _GRID,
        ),
    },
    options=(
        Option("variant", "str", "base", "network size", choices=tuple(SIZES), aliases={"b": "base", "l": "large"}),
    ),
    weights={
        variant: WeightsFile("earthflow/DOFA", f"DOFA_ViT_{variant}_e100.pth", size_bytes=size.file_bytes)
        for variant, size in SIZES.items()
    },
    batch_size={"cpu": 8, "cuda": 64},
    notes=(
        "patches are 16 px: a grid of 14 x 14 cells of 160 m",
        "a sensor may name any of the nine bands, in any order; the others of Sentinel-2 have no statistics",
        "where a provider has no Level-1C: name COPERNICUS/S2_SR_HARMONIZED in a sensor, or take recipe='rs-embed'",
        "the files of XShadow/DOFA have the same tensors but another order in the kernels: they give nonsense here",
    ),
)  # fmt: skip


class Dofa(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (C, 224, 224), ``wavelengths_um`` (C,)."""

    card = CARD
    any_bands = True
    rename = (
        (r"^patch_embed\.weight_generator\.transformer_encoder\.layers\.0\.", "patch_embed.mixer."),
        (r"^patch_embed\.weight_generator\.", "patch_embed."),
        (r"^patch_embed\.fc_weight\.", "patch_embed.to_kernel."),
        (r"^patch_embed\.fc_bias\.", "patch_embed.to_bias."),
        (r"^patch_embed\.fclayer\.w([12])\.", r"patch_embed.code.fc\1."),
        *TORCH_ENCODER_LAYER,
    )
    # Of the pre-training: the token for masked patches and the head of its distillation.
    drop = (r"mask_token", r"projector\..*")

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        names = self.contract.bands
        bands = [BANDS[name] for name in names]
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        if self.config.recipe == "authors":
            scaled = preprocess.satlas_to_uint8(square, names).astype(np.float32)
        else:
            scaled = preprocess.reflectance(square) * np.float32(255.0)
        normalised = preprocess.standardise(scaled, [band.mean for band in bands], [band.std for band in bands])
        return {
            "pixels": preprocess.resize_bilinear(normalised, IMAGE_PX),
            "wavelengths_um": np.array([band.wavelength_um for band in bands], dtype=np.float32),
        }

    def build(self) -> nn.Module:
        """The encoder of the variant."""
        from rsembed.embedders.nets.dofa_net import DofaEncoder

        size = SIZES[self.variant]
        return DofaEncoder(size.dim, size.depth, heads=size.heads, image_px=IMAGE_PX)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Patch tokens, or the region's pooled and normalised vector."""
        from rsembed.embedders.nets.dofa_net import DofaEncoder
        from rsembed.embedders.nets.tokens import Tokens
        from rsembed.embedders.pooling import pool_tokens

        assert isinstance(net, DofaEncoder)
        # One sensor, so one list for the whole batch; empty slots hold zeros.
        tokens: Tokens = net(tensors["pixels"], tensors["wavelengths_um"].amax(0))
        if self.config.output.mode == "grid" or tokens.patches_bthwd is None:
            return tokens
        pooled = pool_tokens(tokens.patches_bthwd, tensors["roi"], self.config.output.pooling)
        return Tokens(vector=net.normalise(pooled, learned=self.config.recipe == "rs-embed"))
