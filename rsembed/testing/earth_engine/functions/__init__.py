"""The service's functions that the server knows, entered into a table when these modules are imported."""

from __future__ import annotations

from rsembed.testing.earth_engine.functions import (
    arithmetic,
    bands,
    collections,
    compositing,
    dates,
    elements,
    filters,
    geometries,
    masks,
    projections,
)
