"""Tokens of leases: which row of the ledger they are for, and the key that fences it.

A token names its row, so that settling and renewing go straight to the primary key.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Literal

from workers.ledger.errors import LedgerError

Kind = Literal["f", "i", "r"]
_TOKEN = re.compile(r"([fir])(\d+)-(\d+)-(\d+)-([0-9a-f]{32})")


@dataclass(frozen=True)
class Token:
    """``kind``: f fetch unit, i inference shard, r run being finished. ``index``: its group or model."""

    kind: Kind
    run: int
    index: int
    shard: int
    key: str

    def __str__(self) -> str:
        return f"{self.kind}{self.run}-{self.index}-{self.shard}-{self.key}"

    @classmethod
    def parse(cls, text: str, kind: Kind | None = None) -> Token:
        """The token written as ``text``; LedgerError when it is none, or not of ``kind``."""
        found = _TOKEN.fullmatch(text)
        if found is None or kind not in (None, found[1]):
            raise LedgerError(f"{text!r} is no token of a lease" + (f" of kind {kind}" if kind else ""))
        return cls(found[1], int(found[2]), int(found[3]), int(found[4]), found[5])  # type: ignore[arg-type]  # by the pattern

    def place(self) -> dict[str, object]:
        """Parameters of a statement about the token's row."""
        return {"run": self.run, "index": self.index, "shard": self.shard, "key": self.key}


def new_key() -> str:
    """A key nobody else has."""
    return uuid.uuid4().hex
