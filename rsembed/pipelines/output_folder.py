"""The output folder of a local run: what a run writes anywhere, its journal, and that nobody else writes to it."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from rsembed.core.errors import ExportError
from rsembed.pipelines.run_output import MANIFEST, RUN_FILE, STATE, RunOutput
from rsembed.writers.store import FolderStore


class OutputFolder(RunOutput):
    """A :class:`RunOutput` in the folder ``root``, with what only a local run keeps there."""

    def __init__(self, root: Path) -> None:
        super().__init__(FolderStore(root))
        self.root = root

    @property
    def tmp(self) -> Path:
        """Files being written; nothing in it is ever read."""
        return self.store.scratch

    @property
    def run_file(self) -> Path:
        """The request and its fingerprint."""
        return self.root / RUN_FILE

    @property
    def journal(self) -> Path:
        """The checkpoint's journal."""
        return self.root / STATE / "journal.jsonl"

    @property
    def manifest(self) -> Path:
        """Written last: its presence says that the run ended."""
        return self.root / MANIFEST

    @property
    def inputs(self) -> Path:
        """Fetched patches that an unfinished shard still needs."""
        return self.root / "_inputs"

    def pack(self, group: str, shard: int) -> Path:
        """Pack of one fetch unit."""
        return self.inputs / group / f"unit-{shard:06d}.pack"

    def lock(self) -> IO[str]:
        """Take the folder for this process until the returned file is closed.

        Raises ExportError when another process has it, or when it holds files but no run.
        """
        self.refuse_strangers()
        path = self.root / STATE / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return locked_file(path, str(self.root))

    def remove_tmp(self) -> None:
        """Drop unfinished files; call only while holding the lock."""
        shutil.rmtree(self.tmp, ignore_errors=True)

    def free_bytes(self) -> int:
        """Space left where the folder lies."""
        info = os.statvfs(self.root)
        return info.f_bavail * info.f_frsize


def locked_file(path: Path, place: str) -> IO[str]:
    """``path``, this process's until it is closed; ExportError that names ``place`` when another process has it."""
    handle = path.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        handle.close()
        raise ExportError(f"another process is exporting into {place}; wait for it or choose another place") from exc
    return handle
