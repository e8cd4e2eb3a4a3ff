"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

MANY_NAMES = 32
"""More names than that are not spelled out."""


def size(n_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError


def count(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def band_names(names: Sequence[str]) -> str:
    """All of ``names``, or the first and the last of many."""
    return ", ".join(names) if len(names) <= MANY_NAMES else f"{names[0]} to {names[-1]}"
