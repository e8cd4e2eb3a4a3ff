"""Where a server's data lie when root asks for a folder that an ordinary user cannot reach."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from workers.servers.place import settle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a stand-in")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


def age(folder: Path) -> None:
    os.utime(folder, (0, 0))


def test_place_when_the_folder_cannot_be_reached_then_the_same_stand_in_serves_each_time(private: Path) -> None:
    first = settle(private / "pg")
    try:
        assert first.folder != first.asked
        assert settle(private / "pg") == first
        assert private.stat().st_mode & 0o777 == 0o700
    finally:
        first.remove()
    assert not first.folder.exists()


def test_place_when_the_folder_is_made_anew_then_it_gets_no_stranger_s_data(private: Path) -> None:
    first = settle(private / "pg")
    shutil.rmtree(private / "pg")
    second = settle(private / "pg")
    try:
        assert second.folder != first.folder
    finally:
        first.remove()
        second.remove()


def test_place_when_its_folder_is_gone_then_the_stand_in_is_cleared_away_by_the_next(private: Path) -> None:
    first = settle(private / "pg")
    shutil.rmtree(private / "pg")
    age(first.folder)
    second = settle(private / "other")
    try:
        assert not first.folder.exists()
        assert second.folder.exists()
    finally:
        second.remove()


def test_place_when_it_can_be_reached_then_nothing_is_moved(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path("/tmp") / f"rsembed-place-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        place = settle(folder / "pg")
        assert place.folder == place.asked == folder / "pg"
        assert place.folder.stat().st_mode & 0o777 == 0o711
    finally:
        shutil.rmtree(folder)
