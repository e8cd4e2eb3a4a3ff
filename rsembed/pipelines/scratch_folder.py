"""A folder for scratch files that outlives no process for long: a killed one's is removed by the next."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"


@contextlib.contextmanager
def scratch_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder ``<parent>/<prefix>...`` while the block runs; those of processes that died are removed first."""
    for lock in parent.glob(f"{prefix}*/{_LOCK}"):
        _remove_if_left(lock)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:
        folder = Path(name)
        with (folder / "lock.new").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Under its name only once it is held, so that nobody takes a new folder for one left behind.
            (folder / "lock.new").rename(folder / _LOCK)
            yield folder


def _remove_if_left(lock: Path) -> None:
    with contextlib.suppress(OSError), lock.open("r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.parent, ignore_errors=True)
