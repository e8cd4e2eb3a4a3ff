from __future__ import annotations

from pathlib import Path

import pytest

from rsembed.core.errors import ExportError
from rsembed.pipelines.checkpoint import FileCheckpoint, PartRecord


def record(index: int = 0) -> PartRecord:
    return PartRecord("shard", "null", index, f"null/{index}", 0, 5, 100, "ab", {"ok": 5})


def written(path: Path, n: int = 3) -> bytes:
    checkpoint = FileCheckpoint(path)
    for i in range(n):
        checkpoint.commit(record(i))
    checkpoint.close()
    return path.read_bytes()


def test_file_checkpoint_when_cut_anywhere_in_its_last_line_then_the_others_stand_and_it_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    whole = written(path)
    two = len(b"".join(whole.splitlines(keepends=True)[:2]))
    for length in (two, two + 1, (two + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        checkpoint = FileCheckpoint(path)
        assert list(checkpoint.records()) == [record(0), record(1)]
        checkpoint.commit(record(2))
        checkpoint.close()
        assert path.read_bytes() == whole


def test_file_checkpoint_when_the_last_line_is_rubbish_then_it_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = written(path)
    path.write_bytes(whole + b"\x00\x00\xff\xfe\n")
    checkpoint = FileCheckpoint(path)
    assert len(checkpoint.records()) == 3
    checkpoint.close()
    assert path.read_bytes() == whole


def test_file_checkpoint_when_a_line_in_the_middle_is_damaged_then_it_says_which(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"kind": "shard"}\n' + lines[2])
    with pytest.raises(ExportError, match="damaged in line 2 of 3"):
        FileCheckpoint(path)
