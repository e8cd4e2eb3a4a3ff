"""Models for this folder's tests; registered on import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsembed.core.card import InputContract, ModelCard
from rsembed.core.fetching import FetchRequest, FramePolicy, Grid
from rsembed.core.patch import Patch
from rsembed.embedders.base import EmbedderBase, Floats, View
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.registry import register
from rsembed.embedders.torch_model import TorchEmbedder
from rsembed.testing.null import COLLECTION, NullEmbedder, NullProvider

SIDE = 8
"""Native input of the models here, pixels of 10 m."""


def contract(bands: tuple[str, ...] = ("B1", "B2"), **changes: Any) -> InputContract:
    return replace(InputContract(COLLECTION, bands, 10.0, SIDE, any_size=True), **changes)


def card(name: str, **changes: Any) -> ModelCard:
    given = {
        "id": name,
        "inputs": {"single": contract()},
        "outputs": ("pooled", "grid"),
        "dims": {"": 2},
        "options": (),
    }
    return replace(NullEmbedder.card, **given | changes)


@register("contract-pixels")
class Pixels(EmbedderBase):
    """Its map is its input, its vector the mean over the asked pixels: what stitching has to give back exactly."""

    card = card("contract-pixels")
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def load(self, device: str) -> None:
        """Nothing to load."""

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        return {"image": view.values_tchw[0]}

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        image = np.asarray(arrays["image"], dtype=np.float32)
        self.shapes.append(image.shape)
        if self.config.output.mode == "grid":
            return image.copy()
        reduce = np.max if self.config.output.pooling == "max" else np.mean
        height, width = image.shape[2:]
        found = []
        for one, box in zip(image, roi, strict=True):
            left, top, right, bottom = np.rint(box * np.array([width, height, width, height])).astype(int)
            part = one[:, top:bottom, left:right]
            found.append(reduce(part.astype(np.float64), axis=(1, 2)) if part.size else np.zeros(len(one)))
        return np.array(found, dtype=np.float32)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(2, 5, 4, 4)

    def forward(self, image: Tensor) -> Tokens:
        return Tokens(patches_bthwd=self.embed(image).permute(0, 2, 3, 1)[:, None])


@register("contract-tokens")
class PatchTokens(TorchEmbedder):
    """One vector for each 4 x 4 pixels; counts how often its network is built."""

    card = card("contract-tokens", dims={"": 5}, inputs={"single": contract(any_size=False)})
    built: ClassVar[list[int]] = []
    seen: ClassVar[list[tuple[int, ...]]] = []

    def build(self) -> nn.Module:
        self.built.append(1)
        torch.manual_seed(0)
        return _Net()

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        from rsembed.embedders import preprocess

        square = preprocess.pad_to_square(view.values_tchw[0] / np.float32(4000))
        self.seen.append(square.shape)
        return {"image": np.ascontiguousarray(preprocess.resize_bilinear(square, SIDE))}

    def forward(self, net: nn.Module, tensors: Mapping[str, Tensor]) -> Tokens:
        found: Tokens = net(tensors["image"])
        return found


class Land(NullProvider):
    """The same land for every request: each pixel's value follows from its band and its place on the map."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[Grid] = []

    def fetch(self, request: FetchRequest) -> Patch:
        self.asked.append(request.grid)
        patch = super().fetch(request)
        for c, band in enumerate(request.bands):
            patch.values_tchw[:, c] = land(request.grid, band)
        return patch


def land(grid: Grid, band: str) -> Floats:
    """What :class:`Land` shows of ``band`` on ``grid``: float32 (height, width), whole numbers."""
    cols = np.rint(grid.x_min / grid.scale_m).astype(np.int64) + np.arange(grid.width)
    rows = np.rint(grid.y_max / grid.scale_m).astype(np.int64) - np.arange(grid.height)
    values = (7919 * cols[None, :] + 104729 * rows[:, None] + 31 * int(band[1:])) % 3989
    return values.astype(np.float32)


@register("contract-annual")
class Annual(NullEmbedder):
    """Knows the years 2020 to 2022 only, by the start of a window."""

    card = replace(
        NullEmbedder.card,
        id="contract-annual",
        inputs={"single": contract(("B1",), frames=FramePolicy("annual", years=(2020, 2021, 2022), year_of="start"))},
    )


@register("contract-monthly")
class Monthly(NullEmbedder):
    """Bins of 30 days, at most twelve; the reference's rule for series."""

    card = replace(
        NullEmbedder.card,
        id="contract-monthly",
        inputs={
            "auto": contract(
                ("B1",), frames=FramePolicy("auto", frame_days=30, max_frames=12, bins="fixed", round_up=True)
            ),
            "single": contract(("B1",)),
            "three": contract(("B1",), frames=FramePolicy("multi", n_frames=3)),
        },
    )
