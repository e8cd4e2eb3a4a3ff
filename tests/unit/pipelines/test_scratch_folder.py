from __future__ import annotations

from pathlib import Path

from rsembed.pipelines.scratch_folder import scratch_folder


def test_scratch_folder_when_the_block_ends_then_nothing_is_left(tmp_path: Path) -> None:
    with scratch_folder(".rows-", tmp_path) as folder:
        (folder / "rows").write_text("x")
    assert not any(tmp_path.iterdir())


def test_scratch_folder_when_one_was_left_behind_then_it_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".rows-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "rows").write_text("x")
    with scratch_folder(".rows-", tmp_path):
        assert not left.exists()


def test_scratch_folder_when_another_is_in_use_then_it_stays(tmp_path: Path) -> None:
    with scratch_folder(".rows-", tmp_path) as first:
        with scratch_folder(".rows-", tmp_path) as second:
            assert first != second
        assert (first / "lock").exists()


def test_scratch_folder_when_a_folder_has_no_lock_then_it_is_not_ours_to_remove(tmp_path: Path) -> None:
    (tmp_path / ".rows-other").mkdir()
    with scratch_folder(".rows-", tmp_path):
        assert (tmp_path / ".rows-other").exists()
