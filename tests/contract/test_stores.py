"""What every :class:`BlobStore` promises, over a folder and over a bucket of a real S3 API server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsembed.core.errors import SpecError, StoreConflictError, StoreError
from rsembed.writers.store import ANY, BlobStore, open_store, scratch_file

Opener = Callable[[], BlobStore]


@pytest.fixture(params=["folder", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same store again and again."""
    url = str(tmp_path / "store") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/pre/fix"
    return lambda: open_store(url, scratch=tmp_path / "scratch")


@pytest.fixture
def store(opened: Opener) -> BlobStore:
    return opened()


def read(store: BlobStore, name: str) -> bytes:
    with store.open(name) as handle:
        return handle.read()


def names(store: BlobStore, prefix: str = "") -> list[str]:
    return sorted(blob.name for blob in store.list(prefix))


def test_put_when_bytes_are_put_then_they_can_be_read_by_another_process(opened: Opener) -> None:
    stored = opened().put("a/b/c.bin", b"abc")
    assert (stored.name, stored.bytes, stored.sha256) == ("a/b/c.bin", 3, hashlib.sha256(b"abc").hexdigest())
    assert read(opened(), "a/b/c.bin") == b"abc"


def test_put_when_a_file_is_put_then_it_is_gone_from_where_it_was(store: BlobStore) -> None:
    with scratch_file(store, "a/big.bin") as path:
        data = os.urandom(3 << 20)
        path.write_bytes(data)
        stored = store.put("a/big.bin", path)
        assert not path.exists()
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert read(store, "a/big.bin") == data
    assert list(store.scratch.iterdir()) == []


def test_put_when_the_file_comes_from_elsewhere_then_it_stands_all_the_same(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x" * 1000)
    assert store.put("a", tmp_path / "elsewhere").bytes == 1000
    assert not (tmp_path / "elsewhere").exists()
    assert read(store, "a") == b"x" * 1000


@pytest.mark.parametrize("replaces", [None, ANY])
def test_put_when_nothing_is_in_it_then_an_empty_file_stands(store: BlobStore, replaces: str | None) -> None:
    with scratch_file(store, "empty") as path:
        path.write_bytes(b"")
        store.put("empty", path, replaces=replaces)
    store.put("also", b"", replaces=replaces)
    assert (read(store, "empty"), read(store, "also")) == (b"", b"")


def test_put_when_equal_bytes_stand_there_then_it_is_a_success(store: BlobStore) -> None:
    first = store.put("a", b"same")
    with scratch_file(store, "a") as path:
        path.write_bytes(b"same")
        assert store.put("a", path) == first
        assert not path.exists()


@pytest.mark.parametrize("other", [b"diff", b"longer"])
def test_put_when_other_bytes_stand_there_then_refused_and_untouched_and_the_file_is_kept(
    store: BlobStore, other: bytes
) -> None:
    stands = store.put("a", b"same")
    with scratch_file(store, "a") as path:
        path.write_bytes(other)
        with pytest.raises(StoreConflictError, match="another") as caught:
            store.put("a", path)
        assert path.read_bytes() == other
        assert caught.value.etag == stands.etag
        store.put("a", path, replaces=caught.value.etag)
    assert read(store, "a") == other


def test_put_when_what_it_replaces_still_stands_then_replaced(opened: Opener) -> None:
    first = opened().put("a", b"one")
    assert [blob.etag for blob in opened().list("a")] == [first.etag]
    second = opened().put("a", b"two", replaces=first.etag)
    assert read(opened(), "a") == b"two"
    assert second.etag != first.etag


def test_put_when_what_it_replaces_was_replaced_by_another_then_refused_unless_equal(store: BlobStore) -> None:
    first = store.put("a", b"one")
    second = store.put("a", b"two", replaces=first.etag)
    with pytest.raises(StoreConflictError) as caught:
        store.put("a", b"three", replaces=first.etag)
    assert caught.value.etag == second.etag
    assert store.put("a", b"two", replaces=first.etag) == second
    assert read(store, "a") == b"two"


def test_put_when_what_it_replaces_is_gone_then_refused(store: BlobStore) -> None:
    first = store.put("a", b"one")
    store.remove("a")
    with pytest.raises(StoreConflictError, match="is gone") as caught:
        store.put("a", b"two", replaces=first.etag)
    assert caught.value.etag == ""
    store.put("a", b"two", replaces=caught.value.etag or None)
    assert read(store, "a") == b"two"


def test_put_when_anything_may_be_replaced_then_it_is(store: BlobStore) -> None:
    for data in (b"one", b"two"):
        store.put("a", data, replaces=ANY)
    assert read(store, "a") == b"two"


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\0"])
def test_put_when_the_name_could_leave_its_place_then_refused(store: BlobStore, name: str) -> None:
    with pytest.raises(SpecError, match="no name for a stored file"):
        store.put(name, b"x")
    with pytest.raises(SpecError):
        store.open(name)
    assert names(store) == []


def test_list_when_asked_for_a_folder_a_name_or_nothing_then_just_that(store: BlobStore) -> None:
    for name in ("a/x", "a/b/y", "ab/z", "a.json"):
        store.put(name, name.encode())
    assert names(store) == ["a.json", "a/b/y", "a/x", "ab/z"]
    assert names(store, "a/") == ["a/b/y", "a/x"]
    assert names(store, "a/x") == ["a/x"]
    assert names(store, "a") == names(store, "c") == names(store, "c/") == names(store, "a/x/") == []
    found = next(iter(store.list("a.json")))
    assert found.bytes == 6
    assert found.modified > 1.7e9


def test_list_when_files_of_folders_are_listed_then_those_of_one_follow_each_other(store: BlobStore) -> None:
    for name in ("k1/000001/a", "k1/000002/a", "k1/000001/b", "k2/000001/a"):
        store.put(name, b"x")
    folders = [blob.name.rpartition("/")[0] for blob in store.list()]
    assert sorted(folders) == folders


def test_list_when_a_file_is_being_prepared_then_it_is_no_object(store: BlobStore) -> None:
    with scratch_file(store, "a") as path:
        path.write_bytes(b"half")
        assert names(store) == []


def test_remove_when_there_is_nothing_then_no_error(store: BlobStore) -> None:
    store.remove("a")
    store.remove("a/")
    store.put("a/b", b"x")
    store.remove("a/b/c")
    store.remove("a/b/")
    assert names(store) == ["a/b"]


def test_remove_when_a_folder_then_all_below_and_nothing_beside_it(store: BlobStore) -> None:
    for name in ("a/x", "a/b/y", "ab/z", "a.json"):
        store.put(name, b"x")
    store.remove("a/")
    assert names(store) == ["a.json", "ab/z"]
    store.remove("a.json")
    assert names(store) == ["ab/z"]


def test_open_when_there_is_nothing_then_file_not_found(store: BlobStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.open("a/b")


def test_open_when_a_large_object_is_read_in_pieces_then_every_byte_is_right(store: BlobStore) -> None:
    data = os.urandom(9 << 20)
    store.put("large", data)
    with store.open("large") as handle:
        assert handle.seek(-5, os.SEEK_END) == len(data) - 5
        assert handle.read() == data[-5:]
        assert handle.read(1) == b""
        handle.seek(1 << 20)
        assert handle.read(10) == data[1 << 20 : (1 << 20) + 10]
        handle.seek(0)
        assert handle.read() == data


def test_open_when_a_large_parquet_file_then_columns_can_be_read(store: BlobStore) -> None:
    table = pa.table({"seq": list(range(60_000)), "noise": [os.urandom(200) for _ in range(60_000)]})
    with scratch_file(store, "p.parquet") as path:
        pq.write_table(table, path, row_group_size=5000, compression="none")
        assert store.put("p.parquet", path).bytes > 9 << 20
    with store.open("p.parquet") as handle:
        assert pq.read_table(handle, columns=["seq"])["seq"].to_pylist() == list(range(60_000))
    with store.open("p.parquet") as handle:
        assert pq.ParquetFile(handle).read_row_group(3)["seq"].to_pylist() == list(range(15_000, 20_000))


def test_scratch_file_when_the_block_raises_then_nothing_is_left(store: BlobStore) -> None:
    def write_half() -> None:
        with scratch_file(store, "a/b") as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(store.scratch.iterdir()) == []
    assert names(store) == []


def test_scratch_file_when_the_system_refuses_then_the_stores_error(store: BlobStore) -> None:
    with pytest.raises(StoreError), scratch_file(store, "a") as path:
        (path / "below a file that is not there").write_bytes(b"")
