"""TerraMind: the image encoder of a generative any-to-any model, on twelve bands of Sentinel-2 at 224 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.embedders import preprocess
from rsembed.embedders.base import EmbedderConfig, View
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Size(NamedTuple):
    """Shape of a variant's encoder. ``gated``: SwiGLU without biases. ``statistics``: key of :data:`STATISTICS`."""

    dim: int
    depth: int
    heads: int
    gated: bool
    statistics: str
    repo: str


SIZES = {
    "terramind_v1_tiny": Size(192, 12, 3, False, "v1", "ibm-esa-geospatial/TerraMind-1.0-tiny"),
    "terramind_v1_small": Size(384, 12, 6, False, "v1", "ibm-esa-geospatial/TerraMind-1.0-small"),
    "terramind_v1_base": Size(768, 12, 12, True, "v1", "ibm-esa-geospatial/TerraMind-1.0-base"),
    "terramind_v1_large": Size(1024, 24, 16, True, "v1", "ibm-esa-geospatial/TerraMind-1.0-large"),
    "terramind_v01_base": Size(768, 12, 12, True, "v01", "FAST-EO/TerraMind-0.1-base"),
}
# DN of the twelve bands, mean and std: terratorch's terramind_register.py, "untok_sen2l2a@224".
STATISTICS = {
    "v1": (
        (1390.458, 1503.317, 1718.197, 1853.91, 2199.1, 2779.975,
         2987.011, 3083.234, 3132.22, 3162.988, 2424.884, 1857.648),
        (2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926,
         1820.257, 1871.918, 1753.829, 1797.379, 1434.261, 1334.311),
    ),
    "v01": (
        (794.311, 925.161, 1183.128, 1338.041, 1667.254, 2233.633,
         2460.96, 2555.569, 2619.542, 2703.298, 2406.497, 1841.645),
        (1164.883, 1205.586, 1223.713, 1399.638, 1403.298, 1378.513,
         1434.924, 1491.141, 1454.089, 1660.395, 1473.248, 1365.08),
    ),
}  # fmt: skip
IMAGE_PX = 224
MODALITY = r"encoder_embeddings\.untok_sen2l2a@224\."

_COMMON = (
    Step("bilinear to 224 without antialias; a rectangle is stretched", "inferred"),
    Step("(DN - mean) / std per band, statistics of the variant's pre-training", "verified"),
    Step("pooled: mean (or max) over all patch tokens after the final norm; there is no class token", "inferred"),
    Step("grid: the same tokens, 14 x 14", "verified"),
)

CARD = ModelCard(
    id="terramind",
    title="TerraMind",
    summary="IBM/ESA any-to-any generative model: its encoder on one Sentinel-2 Level-2A composite, twelve bands",
    paper="arXiv:2504.11171",
    source="https://github.com/IBM/terramind",
    kind="onthefly",
    inputs={
        "s2": InputContract(
            collection="COPERNICUS/S2_SR_HARMONIZED",
            bands=("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"),
            scale_m=10,
            image_size=IMAGE_PX,
        )
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={name: size.dim for name, size in SIZES.items()},
    licence=Licence("Apache-2.0", "yes", "TerraMind by IBM, ESA and Forschungszentrum Juelich (Apache-2.0)"),
    steps={
        "authors": (
            Step("no clipping: the authors standardise raw DN", "documented"),
            Step("harmonised DN, nothing added. The training set mixes two conventions: its paper now says that the "
                 "offset of baseline 04.00 (+1000) was removed, its first version that it was added to older images, "
                 "and users find both in the data; the published means of B11 and B12 lie between. See dn_offset",
                 "inferred"),
            Step("invalid pixels DN 0", "inferred"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("invalid pixels DN 0, then clipped to 0..10000, before resizing", "verified"),
            Step("harmonised DN, nothing added", "verified"),
            *_COMMON,
        ),
    },
    options=(
        Option("model_key", "str", "terramind_v1_small", "network size and release", choices=tuple(SIZES),
               aliases={name.removeprefix("terramind_v1_").removeprefix("terramind_"): name for name in SIZES}),
        Option("layer_index", "int", -1, "which block's tokens; all but the last one's come without the final norm",
               minimum=-24, maximum=23),
        Option("dn_offset", "int", 0, "added to harmonised DN; 1000 imitates products of baseline 04.00",
               choices=(0, 1000)),
    ),
    variant_option="model_key",
    weights={
        name: WeightsFile(size.repo, f"TerraMind_{name.removeprefix('terramind_')}.pt") for name, size in SIZES.items()
    },
    notes=(
        "patches are 16 px: grids of 14 x 14 cells of 160 m",
        "of the model's modalities only Sentinel-2 Level-2A is offered; the file holds the whole any-to-any model",
        "terramind_v01_base is gated: the model hub asks for an account and a token",
    ),
)  # fmt: skip


class TerraMind(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (12, 224, 224)."""

    card = CARD
    rename = (
        (rf"^{MODALITY}proj\.", "patch_embed.proj."),
        (rf"^{MODALITY}", ""),
        (r"^encoder_norm\.", "norm."),
        (r"^encoder\.", "blocks."),
    )
    # The other modalities, and everything behind the encoder.
    drop = (rf"(?!{MODALITY})encoder_embeddings\..*", r"decoder.*", r"mask_token")
    net_options = ("model_key",)

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        super().__init__(config)
        depth, asked = SIZES[self.variant].depth, int(self.config.options["layer_index"] or 0)
        if not -depth <= asked < depth:
            raise ModelError(
                f"terramind: layer_index must lie in {-depth}..{depth - 1} for {self.variant}, got {asked}"
            )
        self._layer = asked % depth

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The tile itself: rectangles are stretched, not padded."""
        return height, width

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        values, valid = preprocess.only_frame(view.values_tchw, view.valid_tchw)
        # In products that carry the offset no-data is 0 as well, so missing pixels get none.
        offset = np.float32(self.config.options["dn_offset"] or 0)
        filled = preprocess.fill_invalid(values + offset if offset else values, valid, self.contract.fill_value)
        if self.config.recipe == "rs-embed":
            np.clip(filled, np.float32(0.0), np.float32(1e4), out=filled)
        resized = preprocess.resize_bilinear(filled, IMAGE_PX)
        return {"pixels": preprocess.standardise(resized, *STATISTICS[SIZES[self.variant].statistics])}

    def complete(self, state: dict[str, Tensor]) -> None:
        """The authors' norms have no bias but keep a buffer of that name, which a file may lack: zeros."""
        for name in [name for name in state if name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))]:
            bias = name.removesuffix("weight") + "bias"
            if name.startswith("encoder") and bias not in state:
                state[bias] = state[name].new_zeros(state[name].shape)

    def build(self) -> nn.Module:
        """The encoder of the variant."""
        from rsembed.embedders.nets.terramind_net import TerraMindEncoder

        size = SIZES[self.variant]
        return TerraMindEncoder(size.dim, size.depth, heads=size.heads, gated=size.gated, image_px=IMAGE_PX)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Patch tokens of the block asked for."""
        tokens: Tokens = net(tensors["pixels"], self._layer)
        return tokens
