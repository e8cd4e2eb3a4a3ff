"""What became of an item, in our words and in the reference system's, which knows only ok and failed."""

from __future__ import annotations

from collections.abc import Mapping

from rsembed.core.embedding import RowStatus

SETTLED = (RowStatus.NO_DATA.value, RowStatus.COLLECTION_GAP.value)
"""Statuses without an embedding that asking again does not change."""


def row_status(entry: Mapping[str, object]) -> str:
    """Our word for what became of an item, where the entry of its model has one, else the reference system's."""
    status = str(entry.get("status") or RowStatus.FAILED.value)
    known = str(entry.get("row_status") or status)
    return status if status == "failed" and known in ("ok", "low_quality") else known
