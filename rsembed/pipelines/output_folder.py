"""The output folder of a run: whose it is, what lies where, and that nobody else writes to it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.core.serialization import differences
from rsembed.writers.atomic import safe_label, write_json


@dataclass(frozen=True)
class OutputFolder:
    """Names of everything a run writes, below ``root``."""

    root: Path

    @property
    def tmp(self) -> Path:
        """Files being written; nothing in it is ever read."""
        return self.root / "_tmp"

    @property
    def run_file(self) -> Path:
        """The request and its fingerprint."""
        return self.root / "_run.json"

    @property
    def weights_lock(self) -> Path:
        """Exactly which weights the run uses, by label."""
        return self.root / "weights.lock"

    @property
    def journal(self) -> Path:
        """The checkpoint's journal."""
        return self.root / "_state" / "journal.jsonl"

    @property
    def manifest(self) -> Path:
        """Written last: its presence says that the run ended."""
        return self.root / "manifest.json"

    @property
    def inputs(self) -> Path:
        """Fetched patches that an unfinished shard still needs."""
        return self.root / "_inputs"

    def pack(self, group: str, shard: int) -> Path:
        """Pack of one fetch unit."""
        return self.inputs / group / f"unit-{shard:06d}.pack"

    def shard_name(self, label: str, index: int) -> str:
        """Path below ``root`` of a shard's rows before compaction."""
        return f"{safe_label(label)}/_shards/shard-{index:06d}.parquet"

    def part_name(self, label: str, index: int) -> str:
        """Path below ``root`` of a compacted part."""
        return f"{safe_label(label)}/part-{index:05d}.parquet"

    def lock(self) -> IO[str]:
        """Take the folder for this process until the returned file is closed.

        Raises ExportError when another process has it, or when it holds files but no run.
        """
        self._refuse_strangers()
        path = self.root / "_state" / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            handle.close()
            raise ExportError(
                f"another process is exporting into {self.root}; wait for it or choose a new folder"
            ) from exc
        return handle

    def _refuse_strangers(self) -> None:
        if self.run_file.exists() or not self.root.is_dir():
            return
        strangers = [path.name for path in self.root.iterdir() if path.name not in ("_tmp", "_state")]
        if strangers:
            raise ExportError(
                f"{self.root} is not empty and holds no run (found {', '.join(sorted(strangers)[:5])}); "
                "choose a new or empty folder"
            )

    def claim(self, fingerprint: str, description: Mapping[str, Json]) -> bool:
        """Bind the folder to one request; True when it was bound to it before (a resume).

        Raises ExportError, naming the difference, when it belongs to another request.
        """
        if self.run_file.exists():
            try:
                found = json.loads(self.run_file.read_text(encoding="utf-8"))
                other, known = found["request"], str(found["fingerprint"])
            except (ValueError, KeyError, TypeError) as exc:
                raise ExportError(f"{self.run_file} is damaged ({exc}); export into a new folder") from exc
            if known == fingerprint:
                return True
            changed = differences(other, description)
            raise ExportError(
                f"{self.root} holds another run; choose a new folder, or ask for the same thing again.\n"
                "What differs (there -> now):\n  " + "\n  ".join(changed[:20] or ["fingerprint"])
            )
        write_json(self.run_file, {"fingerprint": fingerprint, "request": description}, self.tmp)
        return False

    def remove_tmp(self) -> None:
        """Drop unfinished files; call only while holding the lock."""
        shutil.rmtree(self.tmp, ignore_errors=True)

    def free_bytes(self) -> int:
        """Space left where the folder lies."""
        info = os.statvfs(self.root)
        return info.f_bavail * info.f_frsize
