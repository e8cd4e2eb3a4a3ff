from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsembed.core.errors import SpecError, StoreConflictError, StoreError, StoreFullError, is_transient
from rsembed.writers.store import ANY, FolderStore, open_store, scratch_file, store_error


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_folder_when_written_to_then_nothing_but_the_files_is_left(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "out")
    store.put("a/b", b"x")
    assert tree(tmp_path / "out") == ["_tmp", "a", "a/b"]


def test_folder_when_its_last_file_is_removed_then_empty_folders_go_and_the_root_stays(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "out")
    store.put("a/b/c", b"x")
    store.put("a/d", b"x")
    store.remove("a/b/c")
    assert tree(tmp_path / "out") == ["_tmp", "a", "a/d"]
    store.remove("a/")
    assert tree(tmp_path / "out") == ["_tmp"]


def test_folder_when_it_holds_an_empty_folder_then_removing_it_removes_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "a" / "_shards").mkdir(parents=True)
    (tmp_path / "a" / "part").write_bytes(b"x")
    store.remove("a/_shards/")
    assert tree(tmp_path) == ["a", "a/part"]


def test_folder_when_it_is_not_there_then_it_holds_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "none")
    assert list(store.list()) == list(store.list("a")) == []
    with pytest.raises(FileNotFoundError):
        store.open("a")


def test_folder_when_a_file_of_another_process_is_half_written_then_it_is_not_seen(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "_tmp" / "x.parquet.123").write_bytes(b"half")
    assert list(store.list()) == []


def test_put_when_many_create_the_same_name_then_one_wins_and_the_others_are_told(tmp_path: Path) -> None:
    store, outcomes, ready = FolderStore(tmp_path), [], threading.Barrier(8)

    def work(i: int) -> None:
        ready.wait()
        try:
            outcomes.append(store.put("a", b"%d" % i).etag)
        except StoreConflictError:
            outcomes.append(None)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(None) == 7
    assert [blob.etag for blob in store.list("a")] == [etag for etag in outcomes if etag]


def test_put_when_a_folder_is_emptied_all_the_time_then_it_still_succeeds(tmp_path: Path) -> None:
    store, stop = FolderStore(tmp_path, durable=False), threading.Event()

    def empty() -> None:
        while not stop.is_set():
            store.remove("k/other/")
            with contextlib.suppress(FileExistsError):  # it was there, and was removed while mkdir looked
                (tmp_path / "k").mkdir(exist_ok=True)
            store.remove("k/nothing")

    thread = threading.Thread(target=empty)
    thread.start()
    try:
        for i in range(200):
            store.put(f"k/{i}", b"x", replaces=ANY)
            store.remove(f"k/{i}")
    finally:
        stop.set()
        thread.join()


def test_put_when_the_file_system_knows_no_hard_links_then_a_name_is_created_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = FolderStore(tmp_path)
    first = store.put("a", b"one")
    assert store.put("a", b"one") == first
    with pytest.raises(StoreConflictError):
        store.put("a", b"two")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield folder
    finally:
        os.system(f"umount {folder}")


def test_put_when_the_disk_is_full_then_it_says_so_and_leaves_no_half_file(tiny_disk: Path) -> None:
    store = FolderStore(tiny_disk)
    store.put("a", b"x" * 600_000)
    with pytest.raises(StoreFullError, match="no space is left"):
        store.put("b", os.urandom(600_000))
    with pytest.raises(StoreFullError), scratch_file(store, "c") as path, path.open("wb") as handle:
        handle.write(os.urandom(600_000))
    assert tree(tiny_disk) == ["_tmp", "a"]
    store.remove("a")
    store.put("b", b"x" * 600_000)


def test_store_error_when_the_disk_is_full_then_waiting_helps() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        error = store_error("x", OSError(number, "full"))
        assert isinstance(error, StoreFullError)
        assert is_transient(error)
    assert not isinstance(store_error("x", OSError(errno.EACCES, "closed")), StoreFullError)


def test_put_when_the_root_is_a_file_then_the_stores_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    with pytest.raises(StoreError, match="cannot be used"):
        FolderStore(tmp_path / "x").put("a", b"x")


@pytest.mark.parametrize(
    "url", ["http://host/x", "ftp://x", "s3:///x", "s4://bucket", "redis://x", "://x", "memory:///"]
)
def test_open_store_when_the_scheme_is_unknown_then_refused(url: str) -> None:
    with pytest.raises(SpecError, match="a store is a folder or"):
        open_store(url)


def test_open_store_when_a_path_or_a_file_url_then_a_folder(tmp_path: Path) -> None:
    for url in (str(tmp_path), f"file://{tmp_path}"):
        store = open_store(url)
        assert isinstance(store, FolderStore)
        assert store.root == tmp_path
