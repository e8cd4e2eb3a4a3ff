"""MOSAIKS: random convolutional features of an RGB image, in the variant with Gaussian filters; no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Step
from rsembed.core.errors import ModelError
from rsembed.embedders import preprocess
from rsembed.embedders.base import View
from rsembed.embedders.sentinel import RGB, S2_L2A
from rsembed.embedders.torch_model import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rsembed.embedders.nets.tokens import Tokens

FILTERS = 256
CELL_PX = 8
BRIGHT_DN = 3000.0

_STEPS = (
    Step("invalid pixels take the band's mean of the valid ones", "inferred"),
    Step("clip(DN / 3000, 0, 1)", "inferred"),
    Step(
        "256 Gaussian 3 x 3 filters from a fixed seed; the authors draw whitened patches of their own imagery",
        "inferred",
    ),
    Step("relu(h - 1) and relu(-h - 1) of the responses, edges replicated", "documented"),
    Step(
        "pooled: mean (or max) over the valid pixels of the region; grid: means over 8 x 8 pixels, 0 where no "
        "pixel of a cell is valid",
        "documented",
    ),
)

CARD = ModelCard(
    id="mosaiks",
    title="MOSAIKS random convolutional features",
    summary="untrained 3 x 3 filters, two rectified halves each; a strong baseline that needs no download",
    paper="doi:10.1038/s41467-021-24638-z",
    source="https://github.com/Global-Policy-Lab/mosaiks-paper",
    kind="onthefly",
    inputs={
        "s2": InputContract(S2_L2A, RGB, scale_m=10, image_size=128, any_size=True),
    },
    outputs=("pooled", "grid"),
    pooling="tokens",
    dims={"": 2 * FILTERS},
    licence=Licence("no weights", "yes", "MOSAIKS by Rolf et al. 2021 (Nature Communications 12, 4392)"),
    steps={"authors": _STEPS, "rs-embed": _STEPS},
    batch_size={"cpu": 8, "cuda": 32},
    notes=(
        "this is the Gaussian variant: filters are random numbers, not patches of imagery",
        "any input of at least 8 pixels a side goes in as it is; a grid leaves out pixels beyond the last whole cell",
    ),
)


class Mosaiks(TorchEmbedder):
    """See :data:`CARD`. Inputs: ``pixels`` (3, H, W) in 0..1 and ``valid`` (H, W), 1 where all bands are valid."""

    card = CARD

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The tile itself; for a grid, its whole cells."""
        if self.config.output.mode == "pooled":
            return height, width
        return height // CELL_PX * CELL_PX, width // CELL_PX * CELL_PX

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """Network inputs of one tile."""
        frames, _, height, width = view.values_tchw.shape
        if frames != 1 or min(height, width) < CELL_PX:
            raise ModelError(
                f"mosaiks takes one frame of at least {CELL_PX} x {CELL_PX} pixels, got {frames} of {height} x {width}"
            )
        values, valid = view.values_tchw[0], view.valid_tchw[0]
        filled = preprocess.fill_band_mean(values, valid)
        pixels = preprocess.unit_range(filled, BRIGHT_DN)
        counts = np.asarray(preprocess.usable(values, valid).all(axis=0), dtype=np.float32)
        rows, cols = self.canvas(height, width)
        return {"pixels": pixels[:, :rows, :cols], "valid": counts[:rows, :cols]}

    def build(self) -> nn.Module:
        """The filter bank; its numbers are frozen by NumPy's compatibility policy for RandomState."""
        from rsembed.embedders.nets.random_features import RandomFeatures

        filters = np.random.RandomState(0).standard_normal((FILTERS, 3, 3, 3)).astype(np.float32)
        return RandomFeatures(filters)

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        """The mean features of the region; features per pixel for a maximum, per cell for a grid."""
        from rsembed.embedders.pooling import cell_weights

        output, valid = self.config.output, tensors["valid"]
        weights = None
        if output.mode == "pooled" and output.pooling == "mean":
            weights = cell_weights(tensors["roi"], *valid.shape[1:]) * valid
        cell_px = 1 if output.mode == "pooled" else CELL_PX
        tokens: Tokens = net(tensors["pixels"], valid, cell_px=cell_px, pool_weights_bhw=weights)
        return tokens
