"""Files are fetched once, resumed, checked, and never stand half-written under their name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.errors import ProviderError, QuotaError, StoreError, TransientProviderError
from rsembed.providers.products.downloads import Downloader, MissingFileError, Wanted
from rsembed.providers.transport import RequestCounter
from tests.product_files import FileServer, file_server

DATA = np.random.default_rng(0).bytes(50_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(DATA)
    with file_server(tmp_path / "served") as made:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "deep" / "file"


def fetch(server: FileServer, target: Path, *, attempts: int = 3, **known: object) -> Path:
    downloader = Downloader(attempts=attempts, pause_s=0.0)
    try:
        return downloader.fetch(Wanted(f"{server.url}/file", **known), target, RequestCounter())  # type: ignore[arg-type]
    finally:
        downloader.close()


def test_fetch_when_all_is_well_then_one_request_and_nothing_beside_the_file(server: FileServer, target: Path) -> None:
    assert fetch(server, target, sha256=SHA256, size=len(DATA)).read_bytes() == DATA
    assert server.asked("file") == [None]
    assert sorted(p.name for p in target.parent.iterdir()) == [".file.lock", "file"]


def test_fetch_when_the_file_is_there_then_nothing_is_asked(server: FileServer, target: Path) -> None:
    fetch(server, target)
    fetch(server, target, sha256="0" * 64)
    assert len(server.log) == 1


def test_fetch_when_the_connection_breaks_then_only_the_rest_is_asked_for(server: FileServer, target: Path) -> None:
    server.script["file"] += [("cut", 20_000), ("cut", 10_000)]
    assert fetch(server, target, sha256=SHA256).read_bytes() == DATA
    assert server.asked("file") == [None, "bytes=20000-", "bytes=30000-"]


def test_fetch_when_attempts_run_out_then_transient_and_the_next_call_resumes(server: FileServer, target: Path) -> None:
    server.script["file"] += [("cut", 20_000)]
    with pytest.raises(TransientProviderError, match="20000"):
        fetch(server, target, attempts=1, sha256=SHA256)
    assert not target.exists()
    assert fetch(server, target, attempts=1, sha256=SHA256).read_bytes() == DATA
    assert server.asked("file") == [None, "bytes=20000-"]


def test_fetch_when_the_file_changed_meanwhile_then_it_begins_anew(server: FileServer, target: Path) -> None:
    server.script["file"] += [("cut", 20_000)]
    with pytest.raises(TransientProviderError):
        fetch(server, target, attempts=1)
    newer = DATA[::-1]
    (server.root / "file").write_bytes(newer)
    assert fetch(server, target).read_bytes() == newer


def test_fetch_when_no_version_is_stated_then_a_stale_beginning_is_found_by_its_sum(
    tmp_path: Path, target: Path
) -> None:
    (tmp_path / "file").write_bytes(DATA[::-1])
    with file_server(tmp_path, etags=False) as server:
        server.script["file"] += [("cut", 20_000)]
        with pytest.raises(TransientProviderError):
            fetch(server, target, attempts=1, sha256=SHA256)
        (tmp_path / "file").write_bytes(DATA)
        assert fetch(server, target, sha256=SHA256).read_bytes() == DATA


def test_fetch_when_the_server_knows_no_ranges_then_the_whole_is_taken(tmp_path: Path, target: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with file_server(tmp_path, ranges=False) as server:
        server.script["file"] += [("cut", 20_000)]
        assert fetch(server, target, sha256=SHA256).read_bytes() == DATA


@pytest.mark.parametrize(
    ("known", "message"),
    [({"sha256": "0" * 64}, "sha256"), ({"size": 7}, "50000 bytes instead of 7"), ({"at_least": 60_000}, "at least")],
)
def test_fetch_when_it_is_another_file_then_it_is_refused_and_not_kept(
    server: FileServer, target: Path, known: dict[str, object], message: str
) -> None:
    with pytest.raises(ProviderError, match=message) as caught:
        fetch(server, target, **known)
    assert not caught.value.transient
    assert [p.name for p in target.parent.iterdir()] == [".file.lock"]


def test_fetch_when_the_version_is_the_contents_md5_then_that_is_checked(server: FileServer, target: Path) -> None:
    server.etag = hashlib.md5(b"something else", usedforsecurity=False).hexdigest()
    with pytest.raises(ProviderError, match="md5"):
        fetch(server, target)
    server.etag = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    assert fetch(server, target).read_bytes() == DATA


def test_fetch_when_more_was_kept_than_there_is_then_it_begins_anew(server: FileServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    (target.parent / ".file.part").write_bytes(DATA + b"more")
    assert fetch(server, target, sha256=SHA256).read_bytes() == DATA


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (("status", 404), MissingFileError),
        (("status", 403), ProviderError),
        (("status", 429), QuotaError),
        (("status", 500), TransientProviderError),
        (("body", b"<html>quota exceeded</html>", "text/html"), ProviderError),
    ],
)
def test_fetch_when_the_server_refuses_then_classed(
    server: FileServer, target: Path, fault: tuple[object, ...], error: type[ProviderError]
) -> None:
    server.script["file"] += [fault] * 5
    with pytest.raises(error):
        fetch(server, target)
    assert not target.exists()


def test_fetch_when_a_fault_passes_then_the_file_comes(server: FileServer, target: Path) -> None:
    server.script["file"] += [("status", 503), ("status", 500)]
    assert fetch(server, target).read_bytes() == DATA


def test_fetch_when_nobody_listens_then_transient(tmp_path: Path, target: Path) -> None:
    with file_server(tmp_path) as server:
        pass
    with pytest.raises(TransientProviderError, match="cannot be reached"):
        fetch(server, target, attempts=1)


def test_fetch_when_offline_then_it_says_what_is_lacking(target: Path) -> None:
    with pytest.raises(ProviderError, match="RSEMBED_OFFLINE"):
        Downloader(offline=True).fetch(Wanted("http://127.0.0.1:9/file"), target, RequestCounter())


def test_fetch_when_the_folder_cannot_be_made_then_a_store_error(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError):
        fetch(server, tmp_path / "cache" / "file")


def test_fetch_when_several_want_one_file_then_it_is_downloaded_once(server: FileServer, target: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(server, target, sha256=SHA256).read_bytes(), range(8)))
    assert found == [DATA] * 8
    assert len(server.log) == 1
