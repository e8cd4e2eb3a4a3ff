"""Notices a consumer that is alive and takes nothing, which is how Celery's end after some reconnects.

Tickets that lie in a queue of ours while no task runs would be taken within milliseconds by a
consumer that works. When that lasts, the process leaves and its supervisor starts another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from workers.broker import BrokerAwayError
from workers.publisher import Lengths

logger = logging.getLogger(__name__)

EXIT_DEAF = 71
PATIENCE_S = 45.0
"""Longer than the transport's own checks of a half-open connection take."""


class Listener(Protocol):
    """What is guarded."""

    def idle_s(self) -> float: ...
    def listening(self) -> Sequence[str]: ...


class ConsumerGuard:
    """Calls ``leave`` when tickets wait and the listener is idle for ``patience_s`` seconds."""

    def __init__(
        self,
        lengths: Lengths,
        listener: Listener,
        *,
        leave: Callable[[int], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._lengths = lengths
        self._listener = listener
        self._leave = leave
        self._patience_s = patience_s
        self._looks = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look from time to time, in a daemon thread, until `stop`."""
        threading.Thread(target=self._run, name="consumer-guard", daemon=True).start()

    def stop(self) -> None:
        """Look no more: the worker shuts down."""
        self._stopped.set()

    def look(self) -> None:
        """One look; several in a row have to find the same before anything happens."""
        queues = tuple(self._listener.listening())
        try:
            waiting = any(self._lengths.lengths(queues).values())
        except BrokerAwayError:
            waiting = False  # a broker that is away says nothing about the consumer
        self._looks = self._looks + 1 if waiting and self._listener.idle_s() > self._pause_s else 0
        if self._looks * self._pause_s > self._patience_s:
            logger.critical("consumer_deaf", extra={"queues": ",".join(queues), "idle_s": self._listener.idle_s()})
            self._leave(EXIT_DEAF)

    @property
    def _pause_s(self) -> float:
        return self._patience_s / 9

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_s):
            self.look()
