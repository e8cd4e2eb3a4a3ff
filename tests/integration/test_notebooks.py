"""Real kernels of Jupyter: the quickstart runs, bars are its own, a killed kernel's work goes on in the next one."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from rsembed import embed
from rsembed.testing.null import NullProvider

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "docs" / "quickstart.ipynb"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Jupyter and IPython put what they keep."""
    folder = tmp_path_factory.mktemp("jupyter")
    names = ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        for name in names:
            patch.setenv(name, str(folder / name.lower()))
        yield folder


def environ(cwd: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "RSEMBED_CACHE_DIR": str(cwd / "cache"), "RSEMBED_OFFLINE": "1"}


def run_cells(notebook: Any, cwd: Path) -> list[Any]:
    """Execute all cells in a new kernel; returns the outputs of each code cell."""
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(cwd)}})
    client.execute(env=environ(cwd))
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def notebook_of(*cells: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def pictures(outputs: list[Any]) -> list[str]:
    return [each.data["image/png"] for each in outputs if "image/png" in each.get("data", {})]


def text_of(outputs: list[Any]) -> str:
    found = [each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs]
    return "\n".join(found)


def test_quickstart_when_kept_then_without_outputs() -> None:
    whole = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    cells = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.timeout(300)
def test_quickstart_when_run_from_top_to_bottom_then_it_shows_what_it_promises(tmp_path: Path) -> None:
    outputs = run_cells(nbformat.read(QUICKSTART, as_version=4), tmp_path)
    assert sum(len(pictures(each)) for each in outputs) == 6
    everything = "\n".join(map(text_of, outputs))
    assert "Warning" not in everything
    assert "Embedding 512, float32" in everything
    assert "kept     300 results of an earlier run" in everything
    assert "(300, 512)" in everything
    assert (tmp_path / "quickstart-output" / "town.tif").is_file()


CELL = """
import os
import pandas as pd
import rsembed.testing.null
from rsembed import embed
from rsembed.testing.null import NullProvider, request_seed

log = os.open("calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
provider = NullProvider(latency_s={latency}, fault=lambda r: os.write(log, b"%d\\n" % request_seed(r)) and None)
table = pd.read_csv("table.csv")
found = embed(table, "null", year=2022, backend=provider, out="kept", cache=False)
found.to_parquet("found.parquet")
"""


def write_table(folder: Path, rows: int) -> pd.DataFrame:
    chance = np.random.default_rng(3)
    columns = {"lon": chance.uniform(-10, 20, rows).round(5), "lat": chance.uniform(40, 55, rows).round(5)}
    table = pd.DataFrame({"id": [f"r{i}" for i in range(rows)], **columns})
    table.to_csv(folder / "table.csv", index=False)
    return table


def calls(folder: Path) -> Counter[str]:
    log = folder / "calls"
    return Counter(log.read_text().split() if log.exists() else [])


def test_progress_when_in_a_notebook_then_its_own_bars_count_to_the_end(tmp_path: Path) -> None:
    write_table(tmp_path, 40)
    notebook = notebook_of(CELL.format(latency=0))
    [outputs] = run_cells(notebook, tmp_path)
    assert sum("application/vnd.jupyter.widget-view+json" in each.get("data", {}) for each in outputs) == 2
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    bars = [each["state"] for each in widgets if each["model_name"] == "FloatProgressModel"]
    assert [(bar["value"], bar["max"], bar["bar_style"]) for bar in bars] == [(40.0, 40.0, "success")] * 2


def test_progress_when_widgets_are_missing_then_lines_and_no_warning(tmp_path: Path) -> None:
    write_table(tmp_path, 40)
    hidden = "import sys\nsys.modules['ipywidgets'] = None\n"
    line = "from rsembed.progress_bars import progress_for\ntype(progress_for()).__name__"
    outputs, said = run_cells(notebook_of(hidden + CELL.format(latency=0), line), tmp_path)
    assert "Warning" not in text_of(outputs)
    assert text_of(said) == "'LineProgress'"


def test_functions_when_called_within_a_running_event_loop_then_they_work(tmp_path: Path) -> None:
    write_table(tmp_path, 5)
    one = """
from rsembed import PointBuffer, TemporalSpec, get_embedding

async def ask():
    return get_embedding("null", spatial=PointBuffer(2, 42, 100), temporal=TemporalSpec.year(2022), backend=provider)

(await ask()).data.shape, found.status.tolist()
"""
    _, said = run_cells(notebook_of(CELL.format(latency=0), one), tmp_path)
    assert text_of(said) == "((16,), ['ok', 'ok', 'ok', 'ok', 'ok'])"


def start_kernel(folder: Path) -> tuple[KernelManager, Any]:
    manager = KernelManager()
    manager.start_kernel(env=environ(folder), cwd=str(folder))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return manager, client


@pytest.mark.timeout(300)
def test_table_when_its_kernel_is_killed_then_the_next_one_does_the_rest(tmp_path: Path) -> None:
    rows = 800
    table = write_table(tmp_path, rows)
    manager, client = start_kernel(tmp_path)
    try:
        client.execute(CELL.format(latency=0.02))
        while sum(calls(tmp_path).values()) < 600:
            assert manager.is_alive()
            time.sleep(0.02)
    finally:
        manager.shutdown_kernel(now=True)
        client.stop_channels()
    before = calls(tmp_path)
    assert not (tmp_path / "found.parquet").exists()
    manager, client = start_kernel(tmp_path)
    try:
        answer = client.execute_interactive(CELL.format(latency=0), timeout=120, output_hook=lambda message: None)
    finally:
        manager.shutdown_kernel(now=True)
        client.stop_channels()
    assert answer["content"]["status"] == "ok", answer
    after = calls(tmp_path)
    assert set(before) < set(after)
    # Again only what was in flight, or answered in the last moments before the kill.
    assert sum((after - Counter(dict.fromkeys(after, 1))).values()) <= 120
    found = pd.read_parquet(tmp_path / "found.parquet")
    undisturbed = embed(table, "null", year=2022, backend=NullProvider(), show_progress=False, cache=False)
    assert found["status"].tolist() == ["ok"] * rows
    assert np.array_equal(np.stack(found["embedding"]), np.stack(undisturbed["embedding"]))


def test_quickstart_when_it_names_commands_then_they_exist() -> None:
    from rsembed.cli.main import COMMANDS

    named = re.findall(r"`rsembed (\w+)", QUICKSTART.read_text(encoding="utf-8"))
    assert set(named) == {"export", "plot"}
    assert set(named) <= set(COMMANDS)
