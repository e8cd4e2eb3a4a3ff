"""docs/extending.md is followed to the letter: its files are written, its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(\w+\.py)`[^`]*?\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
[COMMANDS] = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
MODEL_LINES = 200


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the page's commands print in a folder that holds the page's files."""
    folder = tmp_path_factory.mktemp("extending")
    for name, code in FILES.items():
        (folder / name).write_text(code, encoding="utf-8")
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RSEMBED_CACHE_DIR": str(folder / "cache"),
        "RSEMBED_OFFLINE": "1",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        ["bash", "-euc", COMMANDS], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_page_when_read_then_its_files_are_there_and_short() -> None:
    assert list(FILES) == ["tinyvit.py", "tinyvit_net.py", "seed_tinyvit.py", "try_tinyvit.py"]
    assert len((FILES["tinyvit.py"] + FILES["tinyvit_net.py"]).splitlines()) < MODEL_LINES


def test_page_when_its_commands_run_then_pixels_become_vectors_and_grids(said: str) -> None:
    assert "(32,) ok authors" in said
    assert "(32, 8, 8) True" in said
    assert "2 (32,)" in said


def test_page_when_its_commands_run_then_the_model_is_like_any_other(said: str) -> None:
    assert "tinyvit: TinyViT" in said
    assert "nobody/tinyvit" in said
    assert "weights/nobody/tinyvit/tinyvit_tiny.pt" in said


def test_page_when_it_names_files_of_ours_then_they_are_there() -> None:
    named = set(re.findall(r"`((?:rsembed|tests|docs)/[\w/.]+)`", PAGE))
    assert named
    made_here = {"tests/unit/embedders/test_tinyvit.py"}
    assert [path for path in sorted(named - made_here) if not (ROOT / path).exists()] == []
