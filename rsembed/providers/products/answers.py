"""From what a product's files hold to a provider's answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.specs import Window
from rsembed.providers.transport import RequestCounter

BACKEND = "products"


@dataclass(frozen=True)
class Layer:
    """One year: ``values`` (C, H, W), 0 where not ``valid`` (H, W), and the files or tiles they are from."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    sources: tuple[str, ...]


def wanted_bands(bands: Sequence[str], known: Sequence[str], collection: str) -> list[int]:
    """Positions of ``bands`` in ``known``; ProviderError for one that is not there."""
    place = {name: i for i, name in enumerate(known)}
    unknown = [band for band in bands if band not in place]
    if unknown:
        raise ProviderError(
            f"{collection} has the {len(known)} bands {known[0]} to {known[-1]}, not {', '.join(unknown[:5])}"
        )
    return [place[band] for band in bands]


def product_patch(request: FetchRequest, layers: Sequence[Layer], counter: RequestCounter) -> Patch:
    """The patch of ``layers``, one for each bin; an empty one is an empty frame."""
    frames = [_frame(window, layer) for window, layer in zip(request.bins, layers, strict=True)]
    values = layers[0].values[None] if len(layers) == 1 else np.stack([layer.values for layer in layers])
    valid = np.broadcast_to(np.stack([layer.valid for layer in layers])[:, None], values.shape)
    provenance: dict[str, Json] = {
        "backend": BACKEND,
        "collection": request.recipe.collection,
        "files": sorted({source for layer in layers for source in layer.sources}),
        "requests": counter.count,
        "bytes": counter.received,
    }
    return Patch(values, valid, request.bands, request.grid, tuple(frames), provenance)


def _frame(window: Window, layer: Layer) -> Frame:
    if not layer.valid.any():
        return Frame(window)
    last = window.end - dt.timedelta(days=1)
    return Frame(window, 1, window.midpoint, window.start, last, layer.sources)
