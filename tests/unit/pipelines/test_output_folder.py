from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsembed.core.errors import ExportError
from rsembed.pipelines.output_folder import OutputFolder

REQUEST = {"models": [{"label": "null", "batch_size": 2}], "dtype": "float32"}


def claimed(root: Path) -> OutputFolder:
    folder = OutputFolder(root)
    with folder.lock():
        assert folder.claim("abc", REQUEST) is False
    return folder


def test_claim_when_new_then_bound_and_the_next_claim_is_a_resume(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "out")
    assert json.loads(folder.run_file.read_text()) == {"fingerprint": "abc", "request": REQUEST}
    assert folder.claim("abc", REQUEST) is True


def test_claim_when_the_request_changed_then_the_difference_is_named(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "out")
    changed = {"models": [{"label": "null", "batch_size": 4}], "dtype": "float16"}
    with pytest.raises(ExportError) as caught:
        folder.claim("def", changed)
    assert 'dtype: "float32" -> "float16"' in str(caught.value)
    assert "models[0].batch_size: 2 -> 4" in str(caught.value)


def test_lock_when_the_folder_holds_something_else_then_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    folder = OutputFolder(tmp_path)
    with pytest.raises(ExportError, match=r"not empty and holds no run \(found thesis.tex\)"):
        folder.lock()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"request": 1}'])
def test_claim_when_its_file_is_damaged_then_refused(tmp_path: Path, text: str) -> None:
    folder = claimed(tmp_path / "out")
    folder.run_file.write_text(text)
    with pytest.raises(ExportError, match="is damaged"):
        folder.claim("abc", REQUEST)


def test_lock_when_held_then_the_second_is_refused_until_it_is_released(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    with folder.lock(), pytest.raises(ExportError, match="another process is exporting"):
        folder.lock()
    folder.lock().close()


LABELS = ["../up", "a/b", "", ".hidden", "_tmp", "x" * 101, "manifest.json", "a.npz", "a.zarr"]


@pytest.mark.parametrize("label", LABELS)
def test_names_when_a_label_could_leave_its_place_then_refused(tmp_path: Path, label: str) -> None:
    folder = OutputFolder(tmp_path)
    for name in (folder.shard_name, folder.part_name):
        with pytest.raises(ExportError, match="cannot name a folder"):
            name(label, 0)


def test_names_when_sorted_then_in_order_of_their_number(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    assert folder.part_name("m", 3) == "m/part-00003.parquet"
    assert folder.shard_name("m", 12) == "m/_shards/shard-000012.parquet"
    assert folder.free_bytes() > 0


def test_remove_tmp_when_there_is_none_then_nothing_happens(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.remove_tmp()
    folder.tmp.mkdir()
    (folder.tmp / "x").write_text("half")
    folder.remove_tmp()
    assert not folder.tmp.exists()
