"""Which progress a command shows."""

from __future__ import annotations

from rsembed.pipelines.progress import ProgressListener
from rsembed.progress_bars import progress_for


def command_progress(*, quiet: bool) -> ProgressListener:
    """Bars on a terminal, a line now and then elsewhere, nothing with ``--quiet``; always on stderr."""
    return progress_for(show=not quiet, short_runs=True)
