"""SatVision-TOA: SwinV2 of 2.6 billion parameters over 14 top-of-atmosphere bands of MODIS at 1 km."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step, WeightsFile
from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FetchRecipe
from rsembed.embedders import preprocess
from rsembed.embedders.base import EmbedderConfig, Floats, View
from rsembed.embedders.onthefly.satvision_bands import BANDS, PROXY_BANDS, calibrated, from_proxy
from rsembed.embedders.onthefly.satvision_size import GIANT, asked_size, size_of
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

IMAGE_PX, PATCH_PX, WINDOW, NORM_PERIOD = 128, 4, 8, 6
REPO = "nasa-cisto-data-science-group/satvision-toa-giant-patch8-window8-128"


_STRETCHED = "rectangles are stretched"
_VECTOR = Step(
    "pooled: the final norm's tokens averaged over the whole input; grid: the same map before it", "verified"
)
_EVERYTHING = CloudPolicy("none", None, None)

CARD = ModelCard(
    id="satvision",
    title="SatVision-TOA",
    summary="NASA SwinV2 giant (2.6 billion parameters) trained by masked images on MODIS top-of-atmosphere, 14 bands",
    paper="arXiv:2411.17000",
    source="https://github.com/nasa-nccs-hpda/pytorch-caney",
    kind="onthefly",
    inputs={
        "toa": InputContract(
            "MODIS/061/MOD021KM", BANDS, scale_m=1000, image_size=IMAGE_PX, composite="mosaic", clouds=_EVERYTHING
        )
    },
    outputs=("pooled", "grid"),
    pooling="vector",
    dims={"": 8 * GIANT.dim},
    licence=Licence(
        "Apache-2.0 (code); for the weights see their page on the hub", "unknown", "SatVision-TOA by NASA CISTO"
    ),
    steps={
        "authors": (
            Step("MODIS L1B calibrated to reflectance (per cent) and brightness temperature (kelvin)", "documented"),
            Step("reflectance / 100, temperature from each band's coldest..hottest to 0..1; not clipped", "documented"),
            Step("invalid pixels 0 after that", "inferred"),
            Step(f"bilinear with antialias to 128; {_STRETCHED}", "documented"),
            _VECTOR,
        ),
        "rs-embed": (
            Step("invalid pixels 0", "verified"),
            Step("norm=auto: numbers in -0.1..1.5 are scaled already; others are scaled as by the authors", "verified"),
            Step("clipped to 0..1", "verified"),
            Step(f"bilinear without antialias to 128; {_STRETCHED}", "verified"),
            Step("with proxy: surface reflectance / 10000, green in the place of cirrus, one land surface temperature "
                 "scaled for each of the eight thermal bands", "documented"),
            _VECTOR,
        ),
    },
    options=(
        Option("norm", "str", "auto", "unit: bands are scaled already; raw: per cent and kelvin; auto: by their range",
               choices=("auto", "unit", "raw")),
        Option("image_size", "int", IMAGE_PX, "input pixels, a multiple of 32", minimum=32, maximum=2048),
        Option("reflectance_divisor", "float", 100.0, "raw reflectance that counts as 1", minimum=1e-6, maximum=1e6),
        Option("proxy", "bool", False, "experimental, recipe='rs-embed' only: surface reflectance (MOD09GA) and land "
               "surface temperature (MOD21A1D) as stand-ins, far from what the network was trained on"),
        Option("embed_dim", "int", None, "token length of the first stage; left out: the checkpoint's (published: 512)",
               minimum=1, maximum=4096),
        Option("depths", "str", None, "blocks of each stage; left out: the checkpoint's (published: 2,2,42,2)"),
        Option("num_heads", "str", None, "heads of each stage; left out: the checkpoint's (published: 16,32,64,128)"),
    ),
    weights={"": WeightsFile(REPO, "mp_rank_00_model_states.pt", size_bytes=10_400_000_000)},
    backends=("raster", "gee"),
    batch_size={"cpu": 2, "cuda": 8},
    notes=(
        "no catalogue serves MOD021KM: give arrays or local files of calibrated granules; gee serves the proxy's bands",
        "experimental: proxy=True, see the options",
        "the file is mapped while it is read: loading takes about as much memory as the weights, 10.4 GB",
        "a region smaller than the image gets the vector of the whole input; a grid has 4 x 4 cells of 32 km",
    ),
)  # fmt: skip


class SatVision(TorchEmbedder):
    """See :data:`CARD`. Input: ``pixels`` (14, image_size, image_size)."""

    card = CARD
    wrap = ("module",)
    rename = (
        (r"^encoder\.", ""),
        (r"^patch_embed\.norm\.", "patch_norm."),
        (r"^layers\.(\d+)\.blocks\.", r"stages.\1."),
        (r"^layers\.(\d+)\.downsample\.", r"merges.\1."),
        (r"\.cpb_mlp\.", ".bias_net."),
    )
    # The pre-training's head and mask, and what is computed here.
    drop = (
        r"decoder\..*",
        r"encoder\.mask_token",
        r".*\.(relative_coords_table|relative_position_index|attn_mask)",
    )
    net_options = ("embed_dim", "depths", "num_heads")

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        super().__init__(config)
        options = self.config.options
        if options["proxy"] and self.config.recipe != "rs-embed":
            raise ModelError(
                "satvision: proxy=True is an experiment of recipe='rs-embed'; the authors trained on top-of-atmosphere "
                "bands, so leave it out or name that recipe"
            )
        if int(options["image_size"] or 0) % 32:
            raise ModelError(f"satvision: image_size must be a multiple of 32, got {options['image_size']}")
        self._size = asked_size(options["embed_dim"], options["depths"], options["num_heads"])

    @property
    def dim(self) -> int:
        """Length of the pooled vector: that of a token of the last stage, of the network at hand once it is loaded."""
        return 8 * self._size.dim if self._net is None else self._net.get_parameter("norm.weight").numel()

    @property
    def contract(self) -> InputContract:
        """The card's contract with the size of the options, and the proxy's bands where it is asked for."""
        sensor, fetch = self.config.sensor, self.config.fetch
        contract = replace(super().contract, image_size=int(self.config.options["image_size"] or 0))
        if sensor is None and (fetch is None or fetch.composite is None):
            contract = replace(contract, composite="mosaic")
        if self.config.options["proxy"] and sensor is None:
            contract = replace(contract, collection="MODIS/061/MOD09GA", bands=PROXY_BANDS)
        return contract

    def fetch_recipe(self) -> FetchRecipe:
        """Whatever the sky: the network was trained on clouds as well."""
        recipe, sensor, fetch = super().fetch_recipe(), self.config.sensor, self.config.fetch
        asked = sensor is not None or (fetch is not None and fetch.cloudy_pct is not None)
        return recipe if asked else replace(recipe, clouds=_EVERYTHING)

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The tile itself: rectangles are stretched, not padded."""
        return height, width

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network input of one tile."""
        values, valid = preprocess.only_frame(view.values_tchw, view.valid_tchw)
        authors = self.config.recipe == "authors"
        good = preprocess.usable(values, valid)
        filled = preprocess.fill_invalid(values, good)
        if self.config.options["proxy"]:
            units = from_proxy(filled)
        elif self._is_scaled(filled):
            units = filled
        else:
            units = calibrated(filled, float(self.config.options["reflectance_divisor"] or 1))
            units = np.where(good, units, np.float32(0.0)) if authors else units
        if not authors:
            units = np.clip(units, np.float32(0.0), np.float32(1.0))
        return {"pixels": preprocess.resize_bilinear(units, self.contract.image_size, antialias=authors)}

    def _is_scaled(self, values: Floats) -> bool:
        if self.config.options["norm"] == "auto":
            return bool(values.min() >= -0.1 and values.max() <= 1.5)
        return self.config.options["norm"] == "unit"

    def complete(self, state: dict[str, Tensor]) -> None:
        """Take the size of the file where the options name none; what is missing inside is still an error."""
        options, found = self.config.options, size_of(state)
        if found is not None:
            self._size = asked_size(options["embed_dim"], options["depths"], options["num_heads"], otherwise=found)

    def build(self) -> nn.Module:
        """The encoder."""
        from rsembed.embedders.nets.swin_v2 import SwinV2

        size = self._size
        return SwinV2(
            len(BANDS), size.dim, size.depths, heads=size.heads, window=WINDOW, patch_px=PATCH_PX,
            norm_period=NORM_PERIOD,
        )  # fmt: skip

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """The last stage's map, and the vector."""
        tokens: Tokens = net(tensors["pixels"])
        return tokens
