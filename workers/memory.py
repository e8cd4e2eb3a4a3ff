"""Resident memory of this process, and the last word of one that uses too much."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from workers.hold import Hold, Leased
from workers.ledger.errors import LedgerError

_PAGE_BYTES = resource.getpagesize()


def rss_bytes() -> int:
    """Resident memory of this process; its peak where the system tells no more."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def note_memory(holds: Iterable[Hold[Leased]]) -> None:
    """Write to the marks of ``holds`` that memory ran out under them, as far as the ledger can be reached."""
    for hold in holds:
        with contextlib.suppress(LedgerError):
            hold.mark(replace(hold.marks, out_of_memory=True))
