"""Submitting into a real ledger: once, whatever happens, and only what is good."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rsembed.testing.fleet
from rsembed.core.errors import ExportError, ModelError, ProviderError, RowError, SpecError, WeightsError
from rsembed.core.settings import Settings
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.pipelines.rows.table import RowOptions
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.testing.fleet import null_backend
from tests.builders import YEAR, dataset, places, row_table, run_export
from tests.ledger_parts import execute
from workers.carried import carried_texts
from workers.ledger.db import upgrade
from workers.ledger.errors import LedgerError, RunStateError
from workers.ledger.records import NewRun, RunRecord, RunState, StoredRows
from workers.ledger.repository import Ledger
from workers.spec import ProviderSpec, RunSpec
from workers.stored_rows import row_shard
from workers.submit import Submission, SubmitOptions, submit

assert rsembed.testing.fleet  # registers its backend and models

MODELS = ("null@plain", "null:poison=77@picky", "null:modality=multi@series")


@pytest.fixture(scope="session")
def ledger_url(database_url: str) -> str:
    upgrade(database_url)
    return database_url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = Ledger(ledger_url, direct=True)
    yield opened
    opened.close()


def submitted(
    ledger: Any,
    out: Path | str,
    source: object = None,
    *,
    models: tuple[str, ...] = MODELS,
    provider: ProviderSpec | None = None,
    settings: Settings | None = None,
    rows: RowOptions | None = None,
    **options: Any,
) -> Submission:
    config = options.pop("config", ExportConfig(shard_size=5, shards_per_part=2))
    return submit(
        RunRequest(tuple(map(ExportModelRequest.parse, models)), config=config, device="cpu"),
        places(12) if source is None else source,
        windows=WindowPolicy((YEAR,)),
        provider=provider or ProviderSpec("null"),
        out=str(out),
        ledger=ledger,
        settings=settings or Settings(),
        rows=rows,
        options=SubmitOptions(who="tester", **options),
    )


def runs_at(ledger: Ledger, out: Path) -> list[RunRecord]:
    return [run for run in ledger.runs(limit=1000) if run.output == str(out)]


# A new run


def test_submit_when_the_request_is_good_then_the_run_is_there_with_all_its_work(
    ledger: Ledger, tmp_path: Path
) -> None:
    found = submitted(ledger, tmp_path / "out", priority=3, max_requests=99)
    run = ledger.run(found.run.id)
    assert found.created
    assert (run.state, run.priority, run.max_requests) == (RunState.RUNNING, 3, 99)
    assert (run.n_rows, run.n_shards, run.output) == (12, 3, str(tmp_path / "out"))
    assert [(m.label, m.model, m.group, m.queue, m.device_class) for m in run.models] == [
        ("plain", "null", 0, "gpu.null", "cpu"),
        ("picky", "null", 0, "gpu.null", "cpu"),
        ("series", "null", 1, "gpu.null", "cpu"),
    ]
    # 8 x 8 pixels of float32, one band; and three frames of them for the other group.
    assert [group.bytes_per_row - 1024 for group in run.groups] == [264, 792]
    assert {stage.open for stage in ledger.status(run.id).stages} == {12}


def test_submit_when_rows_are_read_back_then_they_are_those_of_the_table(ledger: Ledger, tmp_path: Path) -> None:
    extra = {"x": [np.nan, -0.0, *([0.1] * 10)], "t": ['é\n"', None, *["b"] * 10], "n": list(range(12))}
    source = places(12, extra=extra)
    run = submitted(ledger, tmp_path / "out", source).run
    table = row_table(source, tmp_path / "rows")
    spec = RunSpec.from_json(run.spec)
    for index in range(3):
        ours = table.shard(index, 5)
        theirs = row_shard(ledger.stored_rows(run.id, index * 5, len(ours)), spec.schema, index)
        for name in ("seq", "row", "start", "end", "kind", "lon", "lat", "boxes"):
            assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name
        assert ours.ids.equals(theirs.ids)
        # As text, because NaN is not equal to itself.
        assert carried_texts(ours.carried) == carried_texts(theirs.carried)
        assert ours.carried.schema == theirs.carried.schema
    assert spec.rows_digest == table.digest


def test_submit_when_done_then_the_output_says_whose_it_is(ledger: Ledger, tmp_path: Path) -> None:
    run = submitted(ledger, tmp_path / "out").run
    found = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert found["fingerprint"] == run.fingerprint


def test_submit_when_the_same_was_exported_locally_then_the_fingerprint_is_the_same(
    ledger: Ledger, tmp_path: Path
) -> None:
    run_export(tmp_path / "local", places(12), *MODELS, provider=null_backend(), batch_size=None)
    local = json.loads((tmp_path / "local" / "manifest.json").read_text())
    assert submitted(ledger, tmp_path / "out").run.fingerprint == local["fingerprint"]


def test_submit_when_bad_rows_are_left_out_then_they_are_listed_in_the_output(ledger: Ledger, tmp_path: Path) -> None:
    bad = places(12).to_pydict()
    bad["lon"][3] = 500.0
    found = submitted(ledger, tmp_path / "out", pa.table(bad), rows=RowOptions(skip_bad_rows=True))
    assert (found.run.n_rows, found.skipped_rows) == (11, 1)
    assert pq.read_table(tmp_path / "out" / "skipped.parquet")["row"].to_pylist() == [3]


def test_submit_when_weights_are_needed_then_they_are_locked_once_for_all(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "weights" / "test" / "null" / "null.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"first")
    settings = Settings(weights_dir=tmp_path / "weights", cache_dir=tmp_path / "cache", offline=True)
    run = submitted(ledger, tmp_path / "out", models=("null-weights",), settings=settings).run
    pin = RunSpec.from_json(run.spec).weights["null-weights"]
    assert json.loads((tmp_path / "out" / "weights.lock").read_text())["null-weights"]["sha256"] == pin.sha256
    # Another file, or none: the run stays the one that was locked.
    file.unlink()
    again = submitted(ledger, tmp_path / "out", models=("null-weights",), settings=settings)
    assert (again.run.id, again.created) == (run.id, False)


# The same again


def test_submit_when_repeated_then_it_is_the_same_run_and_nothing_changes(ledger: Ledger, tmp_path: Path) -> None:
    first = submitted(ledger, tmp_path / "out")
    ledger.pause(first.run.id, "rest", "tester")
    before = ledger.events(first.run.id)
    again = submitted(ledger, tmp_path / "out", priority=9)
    assert (again.run.id, again.created, again.run.state) == (first.run.id, False, RunState.PAUSED)
    assert again.run.priority == 0
    assert ledger.events(first.run.id) == before


def test_submit_when_the_output_is_another_then_it_is_another_run(ledger: Ledger, tmp_path: Path) -> None:
    ours, theirs = (submitted(ledger, tmp_path / name).run for name in ("a", "b"))
    assert ours.id != theirs.id
    assert ours.fingerprint == theirs.fingerprint


def test_submit_when_the_rows_come_from_another_format_then_it_is_the_same_run(ledger: Ledger, tmp_path: Path) -> None:
    pq.write_table(places(12), tmp_path / "p.parquet")
    first = submitted(ledger, tmp_path / "out")
    assert submitted(ledger, f"file://{tmp_path}/out", tmp_path / "p.parquet").run.id == first.run.id


def test_submit_when_two_do_it_at_once_then_there_is_one_run(ledger_url: str, tmp_path: Path) -> None:
    found: list[int] = []

    def go() -> None:
        mine = Ledger(ledger_url)
        found.append(submitted(mine, tmp_path / "out").run.id)
        mine.close()

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1


class Dying:
    """A ledger whose loader dies in the middle of the rows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def load_run(self, new: NewRun, batches: Iterable[StoredRows]) -> RunRecord:
        def some() -> Iterator[StoredRows]:
            for batch in batches:
                yield replace(batch, **{n: getattr(batch, n)[:5] for n in vars(batch)})
                raise ConnectionResetError

        return self._ledger.load_run(new, some())


def test_submit_when_a_load_was_cut_off_then_it_is_done_again_under_the_same_number(
    ledger: Ledger, tmp_path: Path
) -> None:
    with pytest.raises((ConnectionResetError, LedgerError)):
        submitted(Dying(ledger), tmp_path / "out")
    [left] = runs_at(ledger, tmp_path / "out")
    assert left.state is RunState.LOADING
    again = submitted(ledger, tmp_path / "out")
    assert (again.run.id, again.created, again.run.state) == (left.id, True, RunState.RUNNING)
    assert len(ledger.stored_rows(left.id, 0, 100)) == 12


# Doing it anew


def test_submit_when_new_is_asked_for_an_ended_run_then_it_is_done_again(
    ledger: Ledger, ledger_url: str, tmp_path: Path
) -> None:
    first = submitted(ledger, tmp_path / "out").run
    # It would take workers to bring it there.
    execute(ledger_url, "UPDATE runs SET state = 'done', ended_at = clock_timestamp() WHERE id = %s", first.id)
    for name in ("manifest.json", "plain/_shards/shard-000000.parquet", "plain/part-00000.parquet"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    again = submitted(ledger, tmp_path / "out", new=True)
    assert again.created
    assert again.run.id != first.id
    assert [run.id for run in runs_at(ledger, tmp_path / "out")] == [again.run.id]
    # What said that it had ended is gone; results stay until they are replaced.
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "plain" / "_shards").exists()
    assert (tmp_path / "out" / "plain" / "part-00000.parquet").exists()


def test_submit_when_new_is_asked_for_an_active_run_then_refused(ledger: Ledger, tmp_path: Path) -> None:
    first = submitted(ledger, tmp_path / "out").run
    with pytest.raises(RunStateError, match=f"run {first.id} is running; cancel it"):
        submitted(ledger, tmp_path / "out", new=True)
    assert ledger.run(first.id).state is RunState.RUNNING


# Refused before anything is queued


def bad_latitude() -> pa.Table:
    table = places(12).to_pydict()
    table["lat"][2] = 88.0
    return pa.table(table)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"models": ("null", "null")}, ModelError, "give each its own"),
        ({"models": ("null@../../x",)}, ExportError, "cannot name a folder"),
        ({"models": ("no-such",)}, ModelError, "no model named"),
        ({"source": bad_latitude()}, RowError, "latitude 88 lies beyond"),
        ({"models": ("null-weights",), "settings": Settings(offline=True)}, WeightsError, "is missing"),
        ({"provider": ProviderSpec("null", declared={"nonsense": 1})}, SpecError, "does not take"),
        ({"provider": ProviderSpec("stac", catalog="/nowhere/catalog.json")}, ProviderError, "nowhere"),
        ({"max_requests": 0}, SpecError, "max_requests"),
    ],
)
def test_submit_when_something_is_wrong_then_nothing_is_written(
    change: dict[str, Any], error: type[Exception], said: str, ledger: Ledger, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        submitted(ledger, tmp_path / "out", **change)
    assert runs_at(ledger, tmp_path / "out") == []
    assert not (tmp_path / "out" / "_run.json").exists()


def test_submit_when_the_output_is_another_runs_then_refused_by_what_differs(ledger: Ledger, tmp_path: Path) -> None:
    submitted(ledger, tmp_path / "out")
    with pytest.raises(ExportError, match=r"buffer_m: null -> 200"):
        submitted(ledger, tmp_path / "out", config=ExportConfig(shard_size=5, shards_per_part=2, buffer_m=200.0))
    assert len(runs_at(ledger, tmp_path / "out")) == 1


def test_submit_when_the_output_was_exported_locally_for_another_request_then_refused(
    ledger: Ledger, tmp_path: Path
) -> None:
    run_export(tmp_path / "out", places(3), "null")
    kept = dataset(tmp_path / "out")
    with pytest.raises(ExportError, match="holds another run"):
        submitted(ledger, tmp_path / "out")
    assert dataset(tmp_path / "out").equals(kept)
    assert runs_at(ledger, tmp_path / "out") == []


def test_submit_when_the_output_holds_somebodys_files_then_refused(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("x")
    with pytest.raises(ExportError, match=r"thesis\.docx"):
        submitted(ledger, tmp_path / "out")
    assert runs_at(ledger, tmp_path / "out") == []
