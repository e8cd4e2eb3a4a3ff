"""FoMo-Net 1: a masked autoencoder's encoder that takes any set of bands, each as an image of its own; 64 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import Floats, View
from rsembed.embedders.sentinel import S2_L2A, SQUARE
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Band(NamedTuple):
    """``key``: row of the network's table of bands; mean and std in DN."""

    key: int
    mean: float
    std: float


# Keys: modality_channels of configs/datasets/fomo_pretraining_datasets.json. Statistics: `ssl4eos1s2` of
# configs/stats/stats.json, the authors' one set that has all twelve bands of Level-2A.
BANDS = {
    "B1": Band(6, 752.40087073, 1108.02887453),
    "B2": Band(7, 884.29673756, 1155.15170768),
    "B3": Band(8, 1144.16202635, 1183.6292542),
    "B4": Band(9, 1297.47289228, 1368.11351514),
    "B5": Band(10, 1624.90992062, 1370.265037),
    "B6": Band(11, 2194.6423161, 1355.55390699),
    "B7": Band(12, 2422.21248945, 1416.51487101),
    "B8": Band(13, 2517.76053101, 1474.78900051),
    "B8A": Band(14, 2581.64687018, 1439.3086061),
    "B9": Band(15, 2645.51888987, 1582.28010962),
    "B11": Band(17, 2368.51236873, 1455.52084939),
    "B12": Band(18, 1805.06846033, 1343.48379601),
}
TABLE_ROWS = 38
IMAGE_PX = 64
URL = (
    "https://www.dropbox.com/scl/fi/4ckmxlcbc0tcod8hknp7c/fomo_single_embedding_layer_weights.pt"
    "?rlkey=26tlf3yaz93vvcosr0qrvklub&dl=1"
)

_COMMON = (
    SQUARE,
    Step("bilinear to 64 without antialias, after normalisation", "inferred"),
    Step("each band a single-channel image in patches of 16 px, normalised patch by patch: a band's brightness and "
         "contrast as such do not reach the tokens", "verified"),
    Step("each token told its band by the authors' table of 37 (keys 6 to 15, 17 and 18)", "verified"),
    Step("pooled: mean (or max) over the tokens of all bands after the final norm", "inferred"),
    Step("grid: mean over the bands, 4 x 4", "inferred"),
)  # fmt: skip

CARD = ModelCard(
    id="fomo",
    title="FoMo-Net 1",
    summary="Masked autoencoder's encoder for forests, 64 pixels of twelve Sentinel-2 bands or any of them, each apart",
    paper="arXiv:2312.10114",
    source="https://github.com/RolnickLab/FoMo-Bench",
    kind="onthefly",
    inputs={"s2": InputContract(S2_L2A, tuple(BANDS), scale_m=10, image_size=IMAGE_PX)},
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 768},
    licence=Licence(
        "code MIT; no separate licence of the weights seen", "unknown", "FoMo-Net by Bountos et al. 2025 (MIT)"
    ),
    steps={
        "authors": (
            Step("Sentinel-2 Level-2A; invalid pixels DN 0", "inferred"),
            Step("(DN - mean) / std per band, not clipped (normalization: standard of mae_training.json), with their "
                 "statistics of SSL4EO-S12", "documented"),
            *_COMMON,
        ),
        "rs-embed": (
            Step("Sentinel-2 Level-2A; invalid pixels DN 0", "verified"),
            Step("DN / 10000, clipped to 0..1, so small that the epsilon of the patches' norm damps even ground",
                 "verified"),
            *_COMMON,
        ),
    },
    options=(
        Option("norm", "str", "recipe", "recipe: as the recipe has it; standard: by mean and std; unit_scale: DN / "
               "10000; per_tile_minmax: stretched to 0..1 band by band; none: DN",
               choices=("recipe", "standard", "unit_scale", "per_tile_minmax", "none")),
    ),
    weights={"": WeightsFile(None, "fomo_single_embedding_layer_weights.pt", url=URL, size_bytes=269_000_000)},
    notes=(
        "the authors give no checksum; the one of the first download is written into a run's weights.lock",
        "patches are 16 px: a grid of 4 x 4 cells of 160 m; attention spans all bands, twelve make 192 tokens",
        "a sensor may name any of the twelve bands, in any order",
    ),
)  # fmt: skip


class Fomo(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (C, 64, 64), ``spectral_keys`` (C,) int64."""

    card = CARD
    any_bands = True
    rename = (
        *((rf"^to_patch_embedding\.{i + 1}\.", f"patch_embed.{i}.") for i in range(3)),
        (r"^pos_embedding$", "pos_embed"),
        (r"^spectral_embedding$", "band_embed"),
        (r"^transformer\.norm\.", "norm."),
        (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
        (r"^transformer\.layers\.(\d+)\.0\.to_qkv\.", r"blocks.\1.attn.qkv."),
        (r"^transformer\.layers\.(\d+)\.0\.to_out\.0\.", r"blocks.\1.attn.proj."),
        (r"^transformer\.layers\.(\d+)\.1\.net\.0\.", r"blocks.\1.norm2."),
        (r"^transformer\.layers\.(\d+)\.1\.net\.1\.", r"blocks.\1.mlp.fc1."),
        (r"^transformer\.layers\.(\d+)\.1\.net\.4\.", r"blocks.\1.mlp.fc2."),
    )
    drop = (r"mlp_head\..*", r"cls_token")

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        keys = [BANDS[name].key for name in self.contract.bands]
        return {
            "pixels": preprocess.resize_bilinear(self._normalised(square), IMAGE_PX),
            "spectral_keys": np.array(keys, dtype=np.int64),
        }

    def _normalised(self, square: Floats) -> Floats:
        norm = self.config.options["norm"]
        if norm == "recipe":
            norm = "standard" if self.config.recipe == "authors" else "unit_scale"
        if norm == "standard":
            bands = [BANDS[name] for name in self.contract.bands]
            return preprocess.standardise(square, [band.mean for band in bands], [band.std for band in bands])
        if norm == "none":
            return preprocess.clip_dn(square)
        units = preprocess.reflectance(square)
        return preprocess.stretch_to_unit(units) if norm == "per_tile_minmax" else units

    def build(self) -> nn.Module:
        """The encoder."""
        from rsembed.embedders.nets.fomo_net import FomoEncoder

        return FomoEncoder(768, 12, heads=12, hidden=2048, bands=TABLE_ROWS, image_px=IMAGE_PX)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Tokens of every band."""
        tokens: Tokens = net(tensors["pixels"], tensors["spectral_keys"])
        return tokens
