"""A provider and a model that cost nothing, for tests and benchmarks of everything around them.

Values follow from place and time alone, so two runs of the same rows agree to the last bit,
whatever died in between.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step
from rsembed.core.fetching import FetchRecipe, FetchRequest, FramePolicy
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.specs import Window
from rsembed.embedders.base import EmbedderBase, Floats, View
from rsembed.embedders.registry import register

COLLECTION = "TEST/NULL"


def request_seed(request: FetchRequest) -> int:
    """A number that follows from place and time."""
    grid = request.grid
    return zlib.crc32(f"{grid.epsg},{grid.x_min},{grid.y_max},{request.bins[0].start}".encode())


@lru_cache(maxsize=64)
def _noise(shape: tuple[int, ...]) -> NDArray[np.uint32]:
    # Drawn once a shape: a generator for each row would cost more than all that is measured.
    return np.random.Generator(np.random.PCG64(0)).integers(0, 2**20, shape, dtype=np.uint32)


@lru_cache(maxsize=4096)
def _frames(bins: tuple[Window, ...]) -> tuple[Frame, ...]:
    return tuple(Frame(w, 1, w.midpoint, w.midpoint, w.midpoint, (f"scene-{w.start}",)) for w in bins)


@lru_cache(maxsize=64)
def _weights(pixels: int) -> NDArray[np.float32]:
    return np.random.RandomState(0).standard_normal((pixels, 16)).astype(np.float32)


class NullProvider:
    """Answers every request with noise after ``latency_s`` seconds (``sigma``: lognormal spread).

    ``fault(request)`` may raise what a real provider raises; ``empty(request)`` tells whether
    there is no imagery; ``clear(request)`` gives the share of valid pixels.
    """

    name = "null"

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        sigma: float = 0.0,
        fault: Callable[[FetchRequest], None] | None = None,
        empty: Callable[[FetchRequest], bool] | None = None,
        clear: Callable[[FetchRequest], float] | None = None,
    ) -> None:
        self._latency_s = latency_s
        self._sigma = sigma
        self._fault = fault
        self._empty = empty
        self._clear = clear
        self.calls = 0

    def describe(self) -> Mapping[str, Json]:
        """See ProviderBase."""
        return {"backend": self.name}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """See ProviderBase: everything is served."""

    def close(self) -> None:
        """See ProviderBase."""

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase."""
        self.calls += 1
        if self._latency_s:
            spread = random.lognormvariate(0.0, self._sigma) if self._sigma else 1.0
            time.sleep(self._latency_s * spread)
        if self._fault is not None:
            self._fault(request)
        grid = request.grid
        shape = (len(request.bins), len(request.bands), grid.height, grid.width)
        empty = self._empty is not None and self._empty(request)
        if empty:
            frames = tuple(Frame(window) for window in request.bins)
            return Patch(np.zeros(shape, np.float32), np.zeros(shape, np.bool_), request.bands, grid, frames)
        values = ((_noise(shape) + np.uint32(request_seed(request))) % 4000).astype(np.float32)
        valid = np.ones(shape, np.bool_)
        if self._clear is not None:
            valid[..., round(self._clear(request) * grid.height) :, :] = False
            values[~valid] = 0
        return Patch(values, valid, request.bands, grid, _frames(request.bins), {"requests": 1})


def _contract(frames: FramePolicy = FramePolicy()) -> InputContract:  # noqa: B008 - frozen value
    return InputContract(COLLECTION, ("B1",), 10.0, 8, frames, any_size=True)


@register("null")
class NullEmbedder(EmbedderBase):
    """A fixed random projection of 8 x 8 pixels, in numpy; ``dim`` 16."""

    card = ModelCard(
        id="null",
        title="Null model",
        summary="A fixed random projection, for tests and benchmarks.",
        paper="none",
        source="rsembed.testing.null",
        kind="onthefly",
        inputs={
            "single": _contract(),
            "multi": _contract(FramePolicy("auto", frame_days=28, max_frames=3)),
        },
        outputs=("pooled",),
        pooling="tokens",
        dims={"": 16},
        licence=Licence("Apache-2.0", "yes", "none"),
        steps={"authors": (Step("value / 4000", "verified"),)},
        options=(Option("poison", "int", -1, "first raw value on which the model raises, to test isolation"),),
        batch_size={"cpu": 32},
    )

    def load(self, device: str) -> None:
        """See EmbedderBase: there is nothing to load."""

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """See EmbedderBase: the first band of every frame, scaled."""
        return {"image": view.values_tchw[:, 0] / np.float32(4000)}

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See EmbedderBase."""
        image = arrays["image"]
        poison = int(str(self.config.options["poison"]))
        if poison >= 0 and (np.rint(image[:, 0, 0, 0] * 4000) == poison).any():
            raise ValueError("a poisoned row is in this batch")
        flat = image.mean(axis=1).reshape(len(image), -1)
        return np.asarray(np.einsum("bp,pd->bd", flat, _weights(flat.shape[1])), dtype=np.float32)


@register("null-map")
class MapEmbedder(NullEmbedder):
    """A null model that gives maps as well: sixteen multiples of the mean of each 2 x 2 pixels."""

    seamless = True
    card = replace(NullEmbedder.card, id="null-map", outputs=("pooled", "grid"), inputs={"single": _contract()})

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See EmbedderBase."""
        image = arrays["image"].mean(axis=1)
        rows, cols = image.shape[1] // 2, image.shape[2] // 2
        cells = image[:, : 2 * rows, : 2 * cols].reshape(len(image), rows, 2, cols, 2).mean(axis=(2, 4))
        maps = cells[:, None] * np.arange(1, 17, dtype=np.float32)[:, None, None]
        if self.config.output.mode == "grid":
            return np.asarray(maps, dtype=np.float32)
        return np.asarray(maps.mean(axis=(2, 3)), dtype=np.float32)
