"""Which networks an inference worker keeps in memory: those it used last, within a budget."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict

from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.weights import WeightsHandle

logger = logging.getLogger(__name__)

SHARE = 0.5
"""Part of the memory that networks may take (of the watchdog's budget, or of the machine's)."""


def budget_bytes(memory_mb: int) -> int:
    """Bytes for networks, by their weights: a share of ``memory_mb``, or of the machine's memory where that is 0."""
    whole = memory_mb * 2**20 if memory_mb else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(whole * SHARE)


class WarmModels:
    """Loaded embedders in the order of their last use; the least recent go when the budget is spent.

    Not safe to share between threads without the device lock: what runs must not be unloaded.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._loaded: OrderedDict[EmbedderBase, tuple[str, int]] = OrderedDict()

    def load(self, embedder: EmbedderBase, device: str) -> None:
        """Have ``embedder`` on ``device``, making room first. Raises ModelError or WeightsError."""
        handle = getattr(embedder, "weights", None)
        size = handle.path.stat().st_size if isinstance(handle, WeightsHandle) else 0
        with self._lock:
            self._loaded.pop(embedder, None)
            while self._loaded and size + sum(each for _, each in self._loaded.values()) > self._budget:
                gone, (model, _) = self._loaded.popitem(last=False)
                gone.unload()
                logger.info("model_unloaded", extra={"model": model})
        embedder.load(device)
        with self._lock:
            self._loaded[embedder] = (embedder.card.id, size)

    def ids(self) -> list[str]:
        """Ids of the models that are loaded, the last used first."""
        with self._lock:
            return list(dict.fromkeys(model for model, _ in reversed(self._loaded.values())))
