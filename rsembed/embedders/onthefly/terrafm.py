"""TerraFM: a ViT trained with teacher and student across Sentinel-1 and Sentinel-2, 224 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Size(NamedTuple):
    """Shape of a variant's encoder; ``file_bytes`` about."""

    dim: int
    depth: int
    heads: int
    file: str
    file_bytes: int | None


SIZES = {
    "base": Size(768, 12, 12, "TerraFM-B.pth", 452_000_000),
    "large": Size(1024, 24, 16, "TerraFM-L.pth", None),
}
STEMS = {"s2_l2a": 12, "s2_l1c": 12, "s1": 2}
"""Kinds of images the network has a patch stem for -> channels."""
IMAGE_PX = 224

_S2 = Step("s2: DN / 10000, clipped to 0..1; invalid pixels 0. The authors publish no statistics", "inferred")
_S1 = Step(
    "s1: log(1 + linear power) over the image's own 99th percentile across both bands, clipped to 0..1; invalid "
    "pixels 0. The authors publish no statistics",
    "inferred",
)
_COMMON = (
    Step("bilinear to 224 without antialias; a rectangle is stretched", "inferred"),
    Step("pooled: class token after the final norm", "verified"),
    Step("grid: patch tokens of the last block after the final norm, 14 x 14", "verified"),
)

CARD = ModelCard(
    id="terrafm",
    title="TerraFM",
    summary="Self-supervised ViT on Sentinel-2 (Level-1C and Level-2A) and Sentinel-1; one composite of either",
    paper="arXiv:2506.06281",
    source="https://github.com/mbzuai-oryx/TerraFM",
    kind="onthefly",
    inputs={
        "s2": InputContract(
            collection="COPERNICUS/S2_SR_HARMONIZED",
            bands=("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"),
            scale_m=10,
            image_size=IMAGE_PX,
        ),
        "s1": InputContract(
            collection="COPERNICUS/S1_GRD_FLOAT",
            bands=("VV", "VH"),
            scale_m=10,
            image_size=IMAGE_PX,
            orbit="most_images",
        ),
    },
    outputs=("pooled", "grid"),
    pooling="vector",
    dims={name: size.dim for name, size in SIZES.items()},
    licence=Licence(
        "code Apache-2.0; no separate licence of the weights seen",
        "unknown",
        "TerraFM by Danish et al. 2025 (arXiv:2506.06281)",
    ),
    steps={
        "authors": (
            Step("s2: Level-2A images through the stem trained on Level-2A (is_l2a of the authors' patch embedding; "
                 "their README's example leaves it at its default, Level-1C)", "documented"),
            _S2,
            Step("s1: GRD backscatter of one orbit pass as stand-in for the terrain-corrected (RTC) product of the "
                 "training", "inferred"),
            _S1,
            *_COMMON,
        ),
        "rs-embed": (
            Step("s2: Level-2A images through the stem trained on Level-1C", "verified"),
            _S2,
            Step("s1: GRD backscatter, orbit passes mixed", "verified"),
            _S1,
            *_COMMON,
        ),
    },
    options=(
        Option("variant", "str", "base", "network size", choices=tuple(SIZES), aliases={"b": "base", "l": "large"}),
    ),
    weights={
        name: WeightsFile("MBZUAI/TerraFM", size.file, size_bytes=size.file_bytes) for name, size in SIZES.items()
    },
    notes=(
        "patches are 16 px: grids of 14 x 14 cells of 160 m",
        "a region smaller than 2240 m gets the vector of the whole native footprint",
        "variant large: sizes as the authors' terrafm_large has them; its file has not been tried",
    ),
)  # fmt: skip


class TerraFm(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (12 or 2, 224, 224)."""

    card = CARD
    rename = (
        (r"^patch_embed\.conv2d_(\w+)\.", r"stems.\1.proj."),
        (r"^patch_embed\.(\w+)_embed$", r"kinds.\1"),
        (r"^patch_embed\.projection\.", "projection."),
    )

    @property
    def stem(self) -> str:
        """The patch stem in use: a key of :data:`STEMS`."""
        if self.config.modality == "s1":
            return "s1"
        return "s2_l2a" if self.config.recipe == "authors" else "s2_l1c"

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The tile itself: rectangles are stretched, not padded."""
        return height, width

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        frame = preprocess.only_frame(view.values_tchw, view.valid_tchw)
        filled = preprocess.fill_invalid(*frame, self.contract.fill_value)
        scale = preprocess.log_power_to_unit if self.config.modality == "s1" else preprocess.reflectance
        return {"pixels": preprocess.resize_bilinear(scale(filled), IMAGE_PX)}

    def build(self) -> nn.Module:
        """The encoder of the variant, with all its stems."""
        from rsembed.embedders.nets.terrafm_net import TerraFmEncoder

        size = SIZES[self.variant]
        return TerraFmEncoder(size.dim, size.depth, heads=size.heads, stems=STEMS, image_px=IMAGE_PX)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Class token and patch tokens."""
        tokens: Tokens = net(tensors["pixels"], self.stem)
        return tokens
