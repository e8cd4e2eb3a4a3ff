"""What an export of a layout keeps beside its files while it is not done, so that it can be resumed.

::

    <folder>/lock                   held while an export runs
    <folder>/export.json            per item: which files belong to the export (stays)
    <folder>/items/, manifest.json  manifests that are not wanted beside the files (stay)
    <folder>/tmp/                   files being written
    <folder>/<fingerprint>/covers.json   the items that this request has to do
    <folder>/<fingerprint>/run-0/   a dataset run over those of one buffer; one more for each other buffer
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsembed.pipelines.output_folder import OutputFolder, locked_file
from rsembed.pipelines.targets import INDEX, UNSEEN
from rsembed.writers.store import ANY, FolderStore


def combined_folder(file: Path) -> Path:
    """Where it lies for a combined export into ``file``."""
    return file.with_name(f".{file.name}.rsembed")


class HiddenState:
    """The state in ``folder`` of the export whose files lie in ``files``."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder
        self.store = FolderStore(files)
        """The folder of the visible files; what is being written lies in this state's."""
        self.store.scratch = folder / "tmp"
        self._own = FolderStore(folder)
        self._own.scratch = self.store.scratch

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else exports here while the block runs; ExportError where somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "lock"
        while True:
            handle = locked_file(path, self.store.url)
            # Whoever held it may have removed the file that we opened.
            if _same(handle.fileno(), path):
                break
            handle.close()
            self.folder.mkdir(parents=True, exist_ok=True)
        with handle:
            shutil.rmtree(self.store.scratch, ignore_errors=True)
            try:
                yield
            finally:
                shutil.rmtree(self.store.scratch, ignore_errors=True)

    def covers(self, fingerprint: str) -> list[int] | None:
        """The items that an unfinished call of the same request set out to do; None where there is none."""
        try:
            found = json.loads((self._run(fingerprint) / "covers.json").read_text(encoding="utf-8"))
            return [int(index) for index in found]
        except (OSError, ValueError, TypeError):
            return None

    def set_covers(self, fingerprint: str, indices: Sequence[int]) -> None:
        """Note which items are to be done."""
        self._own.put(f"{self._run(fingerprint).name}/covers.json", json.dumps(list(indices)).encode(), replaces=ANY)

    def portion(self, fingerprint: str, index: int) -> OutputFolder:
        """The folder of one hidden dataset run."""
        return OutputFolder(self._run(fingerprint) / f"run-{index}")

    def forget(self, fingerprint: str | None = None) -> None:
        """Remove what is kept of one request, or of all."""
        if fingerprint is not None:
            shutil.rmtree(self._run(fingerprint), ignore_errors=True)
            return
        for path in self.folder.iterdir():
            if path.is_dir() and path.name != UNSEEN:
                shutil.rmtree(path, ignore_errors=True)

    def forget_others(self, fingerprint: str) -> None:
        """Remove what is kept of other requests."""
        for path in self.folder.iterdir():
            if path.is_dir() and path != self._run(fingerprint) and path != self.store.scratch:
                shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Remove the whole folder; call while it is locked."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write_index(self, index: object) -> None:
        """Put ``export.json`` in its place."""
        self.write(INDEX, json.dumps(index, ensure_ascii=False, allow_nan=False, indent=1))

    def write(self, name: str, text: str) -> None:
        """Put a file of this folder in its place."""
        self._own.put(name, text.encode(), replaces=ANY)

    def _run(self, fingerprint: str) -> Path:
        return self.folder / fingerprint[:24]


def _same(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
