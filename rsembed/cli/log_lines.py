"""Log lines for a terminal: the event, then its context."""

from __future__ import annotations

import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class ContextFormatter(logging.Formatter):
    """``12:00:00 INFO rsembed.pipelines.exporter shard_done shard=3 rows=256``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of ``record`` with its ``extra`` fields."""
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        return f"{super().formatMessage(record)} {extra}".rstrip()


def set_up_logging(verbose: int) -> None:
    """Log to stderr: warnings, with ``verbose`` 1 also what is done, with 2 details of our own modules."""
    handler = logging.StreamHandler()
    handler.setFormatter(ContextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose > 1 else logging.WARNING)
    if not verbose:
        # The hub's client tells of every retry; what it comes to is our own error's to say. When it is imported it
        # sets the level of its first logger again, but not of the one that tells.
        for name in ("huggingface_hub", "huggingface_hub.utils._http"):
            logging.getLogger(name).setLevel(logging.ERROR)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    for name in ("rsembed", "workers"):
        logging.getLogger(name).setLevel(level)
