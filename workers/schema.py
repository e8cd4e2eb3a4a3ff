"""Waits for the ledger at the start of a process, and refuses one of another schema."""

from __future__ import annotations

import logging
import threading

from workers.ledger.db import check_schema
from workers.ledger.errors import LedgerUnavailableError

logger = logging.getLogger(__name__)


def wait_for_schema(url: str, stop: threading.Event, *, pause_s: float = 1.0) -> None:
    """Return once the ledger answers with our schema, or ``stop`` is set.

    LedgerError when its schema is newer or older than this version.
    """
    told = False
    while not stop.is_set():
        try:
            check_schema(url)
            return
        except LedgerUnavailableError as exc:
            if not told:
                logger.warning("ledger_away", extra={"error": str(exc)})
            told = True
            stop.wait(pause_s)
