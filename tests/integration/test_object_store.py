"""Whole runs into a bucket of a real S3 API server: the same names and bytes as into a folder, whatever dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr.storage

from rsembed.core.errors import (
    ExportError,
    ProviderError,
    StoreConflictError,
    StoreError,
    StoreFullError,
    is_transient,
)  # fmt: skip
from rsembed.embedders.weights import WeightsPin
from rsembed.pipelines.run_output import RunOutput
from rsembed.pipelines.run_state import LostShardError
from rsembed.pipelines.shard_writer import earlier_rows
from rsembed.testing.null import NullProvider
from rsembed.writers.store import ANY, BlobStore, FolderStore, Stored, open_store
from tests.builders import Flaky, at_lon, files, places, row_table, run_export, run_plan
from tests.integration.bucket_run import BucketRun, LastRecords, contents
from tests.s3_server import CREDENTIALS

N_ROWS = 23
MODELS = ("null", "null-wide")
LOCAL_ONLY = ("report.json",)


def faulty(*lons: float) -> NullProvider:
    """A provider that cannot answer for the places at ``lons``."""
    return NullProvider(fault=Flaky(lambda: ProviderError("not today"), hits=at_lon(*lons)))


BROKEN = (2.03, 2.11, 2.12)


def make_run(output: BlobStore, folder: Path) -> BucketRun:
    table = row_table(places(N_ROWS), folder)
    return BucketRun(run_plan(*MODELS), table, RunOutput(output), folder / "packs")


@pytest.fixture(params=["folder", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BlobStore]:
    """Opens the run's output anew, as another process would."""
    url = str(tmp_path / "out") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/some/out"
    return lambda: open_store(url, scratch=tmp_path / "spool")


def local(folder: Path, provider: NullProvider, *, zarr: bool = False) -> dict[str, bytes]:
    """Files of the same run by a local export."""
    run_export(folder, places(N_ROWS), *MODELS, provider=provider, npz=True, zarr=zarr, max_attempts=1)
    return files(folder)


def test_run_when_finished_then_names_and_bytes_are_those_of_a_local_export(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    run.finish(zarr=True)
    assert contents(run.output) == local(tmp_path / "local", faulty(*BROKEN), zarr=True)
    assert list((tmp_path / "spool").glob("*")) == []


def test_run_when_failed_rows_are_done_again_then_bytes_are_those_of_a_run_without_faults(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    run.finish(zarr=True)
    run.work(NullProvider())
    run.finish()  # the store that stands there follows its dataset
    assert contents(run.output) == local(tmp_path / "local", NullProvider(), zarr=True)


def test_run_when_only_some_failed_rows_are_done_again_then_the_others_are_still_recorded(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    run.finish()
    first = [failure.seq for failure in run.state().records_of("null")[0].failures][:1]
    seq = first[0] if first else next(f.seq for r in run.state().records_of("null") for f in r.failures)
    size = run.shape.shard_size
    run.work(NullProvider(), lambda label, index: (seq % size,) if index == seq // size else ())
    run.finish()
    with run.output.store.open("failures.parquet") as handle:
        failures = pq.read_table(handle)
    assert len(failures) == 2 * (len(BROKEN) - 1)
    assert seq not in failures["seq"].to_pylist()


class Noting(zarr.storage.ObjectStore[obstore.store.S3Store]):
    """A bucket as zarr-python reads it, which notes what is asked for."""

    def __init__(self, store: obstore.store.S3Store) -> None:
        super().__init__(store, read_only=True)
        self.asked: list[str] = []

    async def get(self, key: str, *args: Any, **named: Any) -> Any:
        self.asked.append(key)
        return await super().get(key, *args, **named)


def test_zarr_when_it_lies_in_a_bucket_then_xarray_opens_it_there_without_asking_for_every_array(
    bucket: str, tmp_path: Path
) -> None:
    run = make_run(open_store(f"{bucket}/out", scratch=tmp_path / "spool"), tmp_path)
    run.work(NullProvider())
    run.finish(zarr=True)
    label = next(iter(run.schemas))
    held = Noting(obstore.store.S3Store.from_url(f"{bucket}/out/{label}.zarr", client_options={"allow_http": True}))
    with xr.open_zarr(held, chunks=None) as found:
        assert [name for name in held.asked if name.endswith("zarr.json")] == ["zarr.json"]
        assert not any(name.startswith("embedding/") for name in held.asked)
        assert sorted(found["id"].values.tolist()) == sorted(f"p{i}" for i in range(N_ROWS))
        assert not np.isnan(found["embedding"]).any()


class Dying:
    """A store that fails as a process that is killed does: at its ``n``-th change, before or after it is made."""

    def __init__(self, store: BlobStore, n: int, *, after: bool) -> None:
        self.url, self.scratch = store.url, store.scratch
        self.open, self.list = store.open, store.list
        self._store, self._left, self._after = store, n, after

    def put(self, name: str, source: Path | bytes, *, replaces: str | None = None) -> Stored:
        self._die(before=True)
        stored = self._store.put(name, source, replaces=replaces)
        self._die(before=False)
        return stored

    def remove(self, prefix: str) -> None:
        self._die(before=True)
        self._store.remove(prefix)
        self._die(before=False)

    def _die(self, *, before: bool) -> None:
        self._left -= before
        if self._left == 0 and before != self._after:
            raise KeyboardInterrupt


def finish_dying(run: BucketRun, opened: Callable[[], BlobStore], *, zarr: bool = False, stride: int = 1) -> int:
    """Finish again and again, each time dying ``stride`` steps later; returns how often it died."""
    deaths = 0
    for step in range(1, 200, stride):
        for after in (False, True):
            run.output = RunOutput(Dying(opened(), step, after=after))
            try:
                run.finish(zarr=zarr)
            except KeyboardInterrupt:
                deaths += 1
            else:
                run.output = RunOutput(opened())
                return deaths
    raise AssertionError("it never got to its end")


def test_finish_when_it_dies_at_every_step_then_the_next_one_ends_with_the_same_bytes(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    assert finish_dying(run, opened) >= 12
    run.work(NullProvider())
    assert finish_dying(run, opened) >= 12
    assert contents(RunOutput(opened())) == local(tmp_path / "local", NullProvider())


def test_finish_when_it_dies_within_a_zarr_store_then_the_next_one_ends_with_the_same_bytes(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    assert finish_dying(run, opened, zarr=True, stride=19) >= 6
    run.work(NullProvider())
    assert finish_dying(run, opened, zarr=True, stride=23) >= 6
    assert contents(RunOutput(opened())) == local(tmp_path / "local", NullProvider(), zarr=True)


def test_finish_when_another_finished_a_later_generation_meanwhile_then_nothing_of_it_is_overwritten(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    slow = make_run(opened(), tmp_path / "slow")
    slow.checkpoint = LastRecords()
    for record in run.checkpoint.records():
        slow.checkpoint.commit(record)
    calls = iter(range(100))

    def stall() -> None:
        if next(calls) == 1:  # its first part is compacted and about to be put
            run.finish()
            run.work(NullProvider())
            run.finish()

    with pytest.raises((StoreConflictError, LostShardError)):
        slow.finish(before_write=stall)
    assert contents(run.output) == local(tmp_path / "local", NullProvider())


def test_finish_when_another_finishes_the_same_at_once_then_both_succeed_with_the_same_bytes(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(NullProvider())
    other = make_run(opened(), tmp_path / "other")
    other.checkpoint = run.checkpoint
    calls = iter(range(100))
    # All parts are compacted by then; the run's own files are written by both.
    other.finish(before_write=lambda: run.finish() if next(calls) == 12 else None)
    assert contents(run.output) == local(tmp_path / "local", NullProvider())


def test_finish_when_told_to_stop_then_it_stops_before_the_next_file(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(NullProvider())
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 2:
            raise TimeoutError("the lease is gone")

    with pytest.raises(TimeoutError, match="the lease is gone"):
        run.finish(before_write=stop)
    assert "null/part-00001.parquet" not in contents(run.output)


def test_finish_when_a_file_stands_there_that_nobody_recorded_then_it_is_named(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(NullProvider())
    run.output.store.put("null/part-00077.parquet", b"mine")
    with pytest.raises(ExportError, match=r"files and records differ: null/part-00077\.parquet"):
        run.finish()


def test_shard_when_its_rows_lie_in_a_part_then_they_are_found_there(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(faulty(*BROKEN))
    records = run.state().records_of("null")
    before = [earlier_rows(run.output, run.shape, record).rows for record in records]
    run.finish()
    after = [earlier_rows(run.output, run.shape, record).rows for record in records]
    assert [table.to_pylist() for table in after] == [table.to_pylist() for table in before]
    run.output.store.remove("null/")
    with pytest.raises(LostShardError, match="shard 2 of null are nowhere"):
        earlier_rows(run.output, run.shape, records[2])


def test_shard_when_a_file_that_nobody_recorded_is_in_the_way_then_only_who_holds_the_lease_replaces_it(
    opened: Callable[[], BlobStore], tmp_path: Path
) -> None:
    run = make_run(opened(), tmp_path)
    run.work(NullProvider())
    record = run.state().records_of("null")[1]
    right = run.output.read(record.name)
    run.checkpoint = LastRecords()
    run.output.store.put(record.name, b"left by one who died", replaces=ANY)
    with pytest.raises(StoreConflictError):
        run.work(NullProvider(), lambda label, index: range(5) if (label, index) == ("null", 1) else ())
    assert run.output.read(record.name) == b"left by one who died"
    run.still_ours = lambda: True
    run.work(NullProvider(), lambda label, index: range(5) if (label, index) == ("null", 1) else ())
    assert run.output.read(record.name) == right


# Whose it is --------------------------------------------------------------------------------------


def test_claim_when_another_request_has_it_then_refused_and_the_difference_named(
    opened: Callable[[], BlobStore],
) -> None:
    assert RunOutput(opened()).claim("abc", {"dtype": "float32"}) is False
    assert RunOutput(opened()).claim("abc", {"dtype": "float32"}) is True
    with pytest.raises(ExportError, match='dtype: "float32" -> "float16"'):
        RunOutput(opened()).claim("def", {"dtype": "float16"})


def test_claim_when_many_claim_at_once_then_one_request_has_it(opened: Callable[[], BlobStore]) -> None:
    won, ready = [], threading.Barrier(6)

    def claim(i: int) -> None:
        output = RunOutput(opened())
        ready.wait()
        try:
            output.claim(f"f{i % 2}", {"run": i % 2})
            won.append(i % 2)
        except ExportError:
            pass

    threads = [threading.Thread(target=claim, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 3
    assert len(set(won)) == 1


def test_claim_when_strangers_files_lie_there_then_refused_and_untouched(opened: Callable[[], BlobStore]) -> None:
    opened().put("thesis/chapter.tex", b"x")
    with pytest.raises(ExportError, match=r"holds no run \(found thesis\)"):
        RunOutput(opened()).claim("abc", {})
    assert [blob.name for blob in opened().list()] == ["thesis/chapter.tex"]


def test_weights_when_locked_then_the_first_lock_stays(opened: Callable[[], BlobStore]) -> None:
    output = RunOutput(opened())
    assert output.locked_weights() == {}
    pin = WeightsPin("org/model", "w.safetensors", "c0ffee", "0" * 64)
    output.lock_weights({"m": pin})
    output.lock_weights({"m": WeightsPin("org/model", "w.safetensors", "other", "1" * 64)})
    assert RunOutput(opened()).locked_weights() == {"m": pin}


# When the bucket is not what it was ----------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """Starts a server that answers every request with one status and S3 error code; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = f"<Error><Code>{code}</Code><Message>it is so</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - names of http.server

            def log_message(self, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def at(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BlobStore:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return open_store("s3://somewhere/x", scratch=tmp_path / "spool")


def every_call(store: BlobStore) -> Iterator[Callable[[], object]]:
    yield lambda: store.put("a", b"x")
    yield lambda: store.open("a")
    yield lambda: list(store.list())
    yield lambda: store.remove("a")
    yield lambda: store.remove("a/")


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (403, "InvalidAccessKeyId"), (400, "MalformedThing"), (503, "SlowDown")]
)
def test_bucket_when_it_refuses_then_every_call_says_why_as_the_stores_fault(
    answering: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, code: str
) -> None:
    store = at(answering(status, code), monkeypatch, tmp_path)
    for call in every_call(store):
        with pytest.raises(StoreError, match="s3://somewhere/x") as caught:
            call()
        assert is_transient(caught.value)
        assert not isinstance(caught.value, StoreFullError)
        assert str(status) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bucket_when_nobody_answers_then_every_call_says_so_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = at("http://127.0.0.1:9", monkeypatch, tmp_path)
    for call in every_call(store):
        with pytest.raises(StoreError, match="s3://somewhere/x cannot be"):
            call()


@pytest.mark.parametrize(("status", "code"), [(507, "XMinioStorageFull"), (403, "QuotaExceeded")])
def test_bucket_when_it_is_full_then_back_pressure(
    answering: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, code: str
) -> None:
    store = at(answering(status, code), monkeypatch, tmp_path)
    with pytest.raises(StoreFullError):
        store.put("a", b"x")


def test_bucket_when_the_number_of_a_full_one_stands_elsewhere_in_the_message_then_it_is_not_full(
    answering: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = at(answering(403, "AccessDenied"), monkeypatch, tmp_path)
    with pytest.raises(StoreError, match="/507 in ") as caught:  # as a name here, as milliseconds once
        store.put("507", b"x")
    assert not isinstance(caught.value, StoreFullError)


def test_bucket_when_there_is_none_of_that_name_then_said_and_nothing_is_taken_for_empty(bucket: str) -> None:
    store = open_store(f"{bucket}-not/x")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.put("a", b"x")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        list(store.list())


def test_run_when_the_output_is_away_then_no_row_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in the way")
    run = make_run(FolderStore(tmp_path / "out"), tmp_path)
    with pytest.raises(StoreError):
        run.work(NullProvider())
    assert run.checkpoint.records() == ()
