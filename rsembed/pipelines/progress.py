"""How a run tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class ProgressListener(Protocol):
    """Told how far each stage is; may be called from several threads."""

    def start(self, totals: Mapping[str, int]) -> None:
        """Stages and how many rows each has to do."""
        ...

    def advance(self, stage: str, rows: int) -> None:
        """``rows`` more are done in ``stage``."""
        ...

    def note(self, message: str) -> None:
        """One line worth reading."""
        ...

    def finish(self) -> None:
        """No more calls will come."""
        ...


class SilentProgress:
    """A :class:`ProgressListener` that says nothing."""

    def start(self, totals: Mapping[str, int]) -> None:
        """See :class:`ProgressListener`."""

    def advance(self, stage: str, rows: int) -> None:
        """See :class:`ProgressListener`."""

    def note(self, message: str) -> None:
        """See :class:`ProgressListener`."""

    def finish(self) -> None:
        """See :class:`ProgressListener`."""
