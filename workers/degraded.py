"""Models that this worker cannot run at the moment: weights missing, a device error, a store that refuses.

The worker leaves the queue of such a model, says so in the ledger, and tries again later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass
class _Trouble:
    reason: str
    probe: Callable[[], object] | None
    next_probe_at: float
    probing: bool = False


class DegradedModels:
    """Model id -> why it does not work here, with a probe every ``probe_s`` seconds.

    ``left`` and ``joined`` are called with the model's id when its queue is to be left and taken
    up again. Changes wait in `untold` until the ledger has taken them. Threads may share it.
    """

    def __init__(
        self,
        *,
        probe_s: float,
        clock: Callable[[], float],
        left: Callable[[str], None] = lambda _model: None,
        joined: Callable[[str], None] = lambda _model: None,
    ) -> None:
        self.left = left
        self.joined = joined
        self._probe_s = probe_s
        self._clock = clock
        self._lock = threading.Lock()
        self._troubles: dict[str, _Trouble] = {}
        self._untold: dict[str, str | None] = {}

    def reasons(self) -> Mapping[str, str]:
        """Model id -> reason, of all that do not work now."""
        with self._lock:
            return {model: trouble.reason for model, trouble in self._troubles.items()}

    def add(self, model: str, reason: str, probe: Callable[[], object] | None = None) -> None:
        """Stop serving ``model``; ``probe`` is called later and raises as long as it does not work.

        Without a probe the model is simply tried again with the next ticket.
        """
        with self._lock:
            known = model in self._troubles
            self._troubles[model] = _Trouble(reason, probe, self._clock() + self._probe_s)
            self._untold[model] = reason
        if not known:
            logger.warning("model_degraded", extra={"model": model, "reason": reason})
            self.left(model)

    def remove(self, model: str) -> None:
        """``model`` works; nothing happens where it was not in trouble."""
        with self._lock:
            if self._troubles.pop(model, None) is None:
                return
            self._untold[model] = None
        logger.info("model_recovered", extra={"model": model})
        self.joined(model)

    def probe_due(self) -> None:
        """Try what is due, each in a thread of its own: loading weights takes longer than a heartbeat."""
        now = self._clock()
        with self._lock:
            due = [
                (model, trouble)
                for model, trouble in self._troubles.items()
                if not trouble.probing and trouble.next_probe_at <= now
            ]
            for _, trouble in due:
                trouble.probing = True
        for model, trouble in due:
            if trouble.probe is None:
                self.remove(model)
            else:
                threading.Thread(target=self._probe, args=(model, trouble), name=f"probe-{model}", daemon=True).start()

    def untold(self) -> Mapping[str, str | None]:
        """Changes the ledger has not taken yet: model id -> reason, None where it works again."""
        with self._lock:
            return dict(self._untold)

    def told(self, model: str, reason: str | None) -> None:
        """The ledger has taken this change."""
        with self._lock:
            if model in self._untold and self._untold[model] == reason:
                del self._untold[model]

    def forget_told(self) -> None:
        """The ledger does not know this worker any more: tell everything again."""
        with self._lock:
            self._untold |= {model: trouble.reason for model, trouble in self._troubles.items()}

    def _probe(self, model: str, trouble: _Trouble) -> None:
        assert trouble.probe is not None
        try:
            trouble.probe()
        except Exception as exc:  # noqa: BLE001 - whatever a probe raises means: not yet
            with self._lock:
                trouble.probing = False
                trouble.next_probe_at = self._clock() + self._probe_s
                if trouble.reason != str(exc):
                    trouble.reason = str(exc)
                    self._untold[model] = trouble.reason
            return
        self.remove(model)
