"""Clay v1.5: a masked autoencoder's encoder that is told wavelengths, ground resolution, date and place."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.embedders import preprocess
from rsembed.embedders.base import Floats, View
from rsembed.embedders.renames import TORCH_ENCODER_LAYER
from rsembed.embedders.sentinel import S2_L2A, SQUARE, SpectralBand
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens


class Size(NamedTuple):
    """Shape of an encoder; ``mlp``: hidden width of a block over ``dim``."""

    dim: int
    depth: int
    heads: int
    head_dim: int
    mlp: int


# Mean and std in DN (configs/metadata.yaml, sentinel-2-l2a).
BANDS = {
    "B2": SpectralBand(0.493, 1105, 1809),
    "B3": SpectralBand(0.56, 1355, 1757),
    "B4": SpectralBand(0.665, 1552, 1888),
    "B5": SpectralBand(0.704, 1887, 1870),
    "B6": SpectralBand(0.74, 2422, 1732),
    "B7": SpectralBand(0.783, 2630, 1697),
    "B8": SpectralBand(0.842, 2743, 1742),
    "B8A": SpectralBand(0.865, 2785, 1648),
    "B11": SpectralBand(1.61, 2388, 1470),
    "B12": SpectralBand(2.19, 1835, 1379),
}
SIZES = {
    "tiny": Size(192, 6, 4, 48, 2),
    "small": Size(384, 6, 6, 64, 2),
    "base": Size(768, 12, 12, 64, 4),
    "large": Size(1024, 24, 16, 64, 4),
}
IMAGE_PX = 256

_INPUT = (
    Step("Sentinel-2 Level-2A (sentinel-2-l2a of configs/metadata.yaml); invalid pixels DN 0", "documented"),
    Step("(DN - mean) / std per band, not clipped", "verified"),
    SQUARE,
    Step("other sizes: bilinear without antialias to 256; the authors feed chips of 256 as they are", "inferred"),
    Step("wavelengths in micrometres, 0.493 for B2 to 2.19 for B12 (configs/metadata.yaml)", "verified"),
    Step("place: sine and cosine of the latitude and of the longitude of the row's centre", "verified"),
)
_OUTPUT = (
    Step("pooled: class token after the final norm", "verified"),
    Step("grid: patch tokens after the final norm", "verified"),
)

CARD = ModelCard(
    id="clay",
    title="Clay v1.5",
    summary="Masked autoencoder's encoder, 256 pixels of ten Sentinel-2 bands (or any of them), with date and place",
    paper="no paper; https://clay-foundation.github.io/model",
    source="https://github.com/Clay-foundation/model",
    kind="onthefly",
    inputs={
        "s2": InputContract(S2_L2A, bands=tuple(BANDS), scale_m=10, image_size=IMAGE_PX)
    },
    outputs=("pooled", "grid"),
    pooling="vector",
    dims={name: size.dim for name, size in SIZES.items()},
    licence=Licence("Apache-2.0", "yes", "Clay Foundation Model v1.5 (Apache-2.0)"),
    steps={
        "authors": (
            *_INPUT,
            Step("date: sine and cosine of the ISO week of the frame's date over 52; hour 0 stands for the hour of "
                 "acquisition, which a composite has not", "inferred"),
            Step("gsd: metres per pixel as the network sees them, after resizing", "inferred"),
            *_OUTPUT,
        ),
        "rs-embed": (
            *_INPUT,
            Step("date: sine and cosine of the ISO week of the window's middle over 52; hour 0", "verified"),
            Step("gsd: metres per pixel as fetched, also after resizing", "verified"),
            *_OUTPUT,
        ),
    },
    options=(
        Option("model_size", "str", "large", "network size; only large is published, the others load checkpoints of "
               "your own", choices=tuple(SIZES)),
    ),
    variant_option="model_size",
    weights={
        "tiny": WeightsFile(None, "clay-v1.5-tiny.ckpt"),
        "small": WeightsFile(None, "clay-v1.5-small.ckpt"),
        "base": WeightsFile(None, "clay-v1.5-base.ckpt"),
        # Most of the file is the decoder and the frozen teacher.
        "large": WeightsFile("made-with-clay/Clay", "v1.5/clay-v1.5.ckpt", size_bytes=4_800_000_000),
    },
    batch_size={"cpu": 4, "cuda": 32},
    notes=(
        "patches are 8 px: a grid of 32 x 32 cells of 80 m",
        "date and place change the embedding",
        "a sensor may name any of the ten bands, in any order",
        "a region smaller than 2560 m gets the vector of the whole native footprint",
    ),
)  # fmt: skip


def week_and_hour(day: dt.date) -> Floats:
    """Sine and cosine of the ISO week, then of hour 0, float32 (4,); week 53 goes beyond a full turn."""
    week = day.isocalendar().week * 2 * math.pi / 52
    return np.array([math.sin(week), math.cos(week), 0.0, 1.0], dtype=np.float32)


def place(lat: float, lon: float) -> Floats:
    """Sine and cosine of the latitude, then of the longitude, float32 (4,)."""
    south, east = math.radians(lat), math.radians(lon)
    return np.array([math.sin(south), math.cos(south), math.sin(east), math.cos(east)], dtype=np.float32)


class Clay(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (C, 256, 256), ``waves`` (C,), ``time``, ``latlon`` (4,), ``gsd`` ()."""

    card = CARD
    any_bands = True
    wrap = ("state_dict",)
    rename = (
        (r"^(model\.)?encoder\.", ""),
        (r"^transformer\.norm\.", "norm."),
        (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
        (r"^transformer\.layers\.(\d+)\.0\.to_qkv\.", r"blocks.\1.attn.qkv."),
        (r"^transformer\.layers\.(\d+)\.0\.to_out\.", r"blocks.\1.attn.proj."),
        (r"^transformer\.layers\.(\d+)\.1\.net\.0\.", r"blocks.\1.norm2."),
        (r"^transformer\.layers\.(\d+)\.1\.net\.1\.", r"blocks.\1.mlp.fc1."),
        (r"^transformer\.layers\.(\d+)\.1\.net\.3\.", r"blocks.\1.mlp.fc2."),
        (r"^patch_embedding\.weight_generator\.encoder\.layers\.0\.", "patch_embed.mixer."),
        (r"^patch_embedding\.weight_generator\.", "patch_embed."),
        (r"^patch_embed\.fc_weight\.", "patch_embed.to_kernel."),
        (r"^patch_embed\.fc_bias\.", "patch_embed.to_bias."),
        (r"^patch_embedding\.fclayer\.l([12])\.", r"patch_embed.code.fc\1."),
        *TORCH_ENCODER_LAYER,
    )
    # Of the training: the decoder, the frozen teacher (DINOv2) and the projection that compares with it.
    drop = (r"model\.(decoder|teacher|proj)\..*",)
    net_options = ("model_size",)

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        bands = [BANDS[name] for name in self.contract.bands]
        square = preprocess.square_frame(view.values_tchw, view.valid_tchw, fill=self.contract.fill_value)
        normalised = preprocess.standardise(square, [band.mean for band in bands], [band.std for band in bands])
        shrunk = square.shape[-1] / IMAGE_PX if self.config.recipe == "authors" else 1.0
        return {
            "pixels": preprocess.resize_bilinear(normalised, IMAGE_PX),
            "waves": np.array([band.wavelength_um for band in bands], dtype=np.float32),
            "time": week_and_hour(view.dates[0]),
            "latlon": place(view.lat, view.lon),
            "gsd": np.array(view.scale_m * shrunk, dtype=np.float32),
        }

    def build(self) -> nn.Module:
        """The encoder of the size."""
        from rsembed.embedders.nets.clay_net import ClayEncoder

        size = SIZES[self.variant]
        hidden = size.mlp * size.dim
        return ClayEncoder(size.dim, size.depth, heads=size.heads, head_dim=size.head_dim, hidden=hidden)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """Class token and patch tokens after the final norm."""
        # One sensor, so one list of wavelengths for the whole batch; empty slots hold zeros.
        tokens: Tokens = net(
            tensors["pixels"],
            tensors["waves"].amax(0),
            time_b4=tensors["time"],
            place_b4=tensors["latlon"],
            gsd_b=tensors["gsd"],
        )
        return tokens
