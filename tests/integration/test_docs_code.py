"""Every code block of every page of docs/ runs, on a synthetic scene and without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsembed.testing.scene import write_synthetic_catalog
from tests.doc_blocks import PRINTS, blocks_of
from tests.product_files import write_registry, write_tile

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
RUN = {"python", "sh"}
SHOWN = {"text", "csv", "json", "yaml", "toml"}
"""Languages of blocks that are no code."""
NOT_RUN = {
    # page: (blocks of the language `console`, why)
    "earth-engine.md": (1, "an account and a project at Earth Engine"),
    "quickstart.md": (1, "installing"),
    "fleet.md": (1, "one server for each line; tests/unit/test_fleet_docs.py holds its commands and options"),
}
WITH_CODE = [name for name, page in PAGES.items() if RUN & {block.language for block in blocks_of(page)}]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder as the demo leaves it, in small; a tile of published embeddings; files of the reference system."""
    scene = tmp_path / "demo-output" / "synthetic-catalog"
    write_synthetic_catalog(scene, size_px=512, dates=("2022-06-13",))
    (tmp_path / "demo-output" / "places-300.csv").write_text("id,lon,lat\na,2.77,42.44\nb,2.78,42.435\n")
    tiles = tmp_path / "tessera-tiles"
    write_registry(tiles, [write_tile(tiles, 275, 4245, 2022)])
    write_old_export(tmp_path / "old-export")
    return tmp_path


def write_old_export(folder: Path) -> None:
    """Two items as the reference system leaves them; the second one failed."""
    folder.mkdir()
    for index, status in enumerate(("ok", "failed")):
        arrays = {"embedding__remoteclip": np.ones(4, np.float32)} if status == "ok" else {}
        np.savez(folder / f"p{index:05d}.npz", **arrays)
        stored = {"npz_key": "embedding__remoteclip"} if arrays else None
        entry = {"model": "remoteclip", "status": status, "embedding": stored}
        place = {"lon": 2.77 + index, "lat": 42.44, "buffer_m": 320, "crs": "EPSG:4326"}
        window = {"mode": "range", "start": "2022-06-01", "end": "2022-09-01"}
        manifest = {"point_index": index, "status": status, "models": [entry], "spatial": place, "temporal": window}
        (folder / f"p{index:05d}.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", WITH_CODE)
def test_page_when_its_code_runs_in_order_then_it_works_and_prints_what_it_says(place: Path, name: str) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("RSEMBED_")}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), "."]),
        "RSEMBED_CACHE_DIR": str(place / "cache"),
        "RSEMBED_HOME": str(place / "home"),
        "RSEMBED_OFFLINE": "1",
        "MPLBACKEND": "agg",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-W", "error", "-W", "default::UserWarning", "-m", "tests.doc_blocks", str(DOCS / name)]
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def test_pages_when_they_show_code_then_all_of_it_runs_but_for_what_is_listed() -> None:
    languages = {block.language for page in PAGES.values() for block in blocks_of(page)}
    assert languages - RUN - SHOWN == {"console"}
    found = {name: len(blocks_of(page, "console")) for name, page in PAGES.items()}
    assert {name: n for name, n in found.items() if n} == {name: n for name, (n, _) in NOT_RUN.items()}


def test_pages_when_they_show_what_is_printed_then_it_follows_code_that_is_run() -> None:
    for name, page in PAGES.items():
        before = None
        for block in blocks_of(page):
            if block.title == PRINTS:
                assert before is not None, f"{name}:{block.line}"
                assert before.language in RUN, f"{name}:{block.line}"
            before = block


def test_pages_when_read_then_no_code_hides_in_indented_blocks() -> None:
    for name, page in PAGES.items():
        outside, fenced = [], False
        for line in page.splitlines():
            fenced ^= line.startswith("```")
            outside.append("" if fenced else line)
        hidden = [line for before, line in zip(outside, outside[1:]) if not before and line.startswith("    ")]
        assert not hidden, f"{name}: {hidden[0]}"
