"""Short calls of the public functions against the null provider, which the files of this folder share."""

from __future__ import annotations

from typing import Any

import rsembed
from rsembed import Embedding, PointBuffer, TemporalSpec
from rsembed.testing.null import NullProvider

YEAR = TemporalSpec.year(2022)
PLACE = PointBuffer(2.0, 42.0, 40.0)
PLACES = [PointBuffer(2.0 + 0.01 * i, 42.0, 40.0) for i in (4, 0, 3, 1, 2)]


def settings(**changes: Any) -> dict[str, Any]:
    """Keywords of a call that costs nothing."""
    return {"backend": NullProvider(), "device": "cpu"} | changes


def single(model: str = "null", spatial: Any = PLACE, **changes: Any) -> Embedding:
    return rsembed.get_embedding(model, spatial=spatial, **settings(temporal=YEAR) | changes)


def batch(model: str = "null", spatials: Any = None, **changes: Any) -> list[Embedding]:
    chosen = PLACES if spatials is None else spatials
    return rsembed.get_embeddings_batch(model, spatials=chosen, **settings(temporal=YEAR) | changes)
