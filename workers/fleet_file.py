"""`<home>/fleet.json`: where a fleet that `rsembed fleet up` runs on this machine can be reached.

The file says where; the lock beside it says whether: `fleet up` holds it as long as it
lives, so a file left behind by a crash is never believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

FILE_NAME = "fleet.json"
LOCK_NAME = "fleet.lock"


@dataclass(frozen=True)
class FleetFile:
    """What the other commands need to work with the fleet of this machine.

    ``flower_url`` and ``metrics_url`` are empty where those do not run.
    """

    pid: int
    database_url: str
    direct_database_url: str
    redis_url: str
    inputs: str
    flower_url: str = ""
    metrics_url: str = ""

    def write(self, home: Path) -> Path:
        """Put the file into ``home`` in one step, readable by its owner only: URLs may hold passwords."""
        path = home / FILE_NAME
        temporary = home / f"{FILE_NAME}.{os.getpid()}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
        return path


def remove(home: Path) -> None:
    """Take the file away, if it is there: the fleet has ended."""
    (home / FILE_NAME).unlink(missing_ok=True)


def running_fleet(home: Path) -> FleetFile | None:
    """The fleet that runs in ``home`` now, or None."""
    try:
        text = (home / FILE_NAME).read_text(encoding="utf-8")
    except OSError:
        return None
    if not _is_held(home / LOCK_NAME):
        return None
    try:
        values = json.loads(text)
        return FleetFile(**values)
    except (TypeError, ValueError):
        return None  # of another version, whose commands this one does not know


@contextlib.contextmanager
def held(home: Path) -> Iterator[IO[str]]:
    """Hold the lock of ``home`` for the time of the block; `BlockingIOError` where another process does."""
    with open(home / LOCK_NAME, "a", encoding="utf-8", opener=_private) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
