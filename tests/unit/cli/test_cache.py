from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rsembed.cli.main import cli
from rsembed.pipelines.input_cache import InputCache
from tests.builders import patch, request

KEY = "ab" + "0" * 62


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one patch of the year 2022."""
    monkeypatch.setenv("RSEMBED_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("RSEMBED_INPUT_CACHE_GB", "2")
    InputCache(tmp_path / "inputs", 10**9).put(KEY, request(), patch())
    return tmp_path / "inputs"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_info_when_asked_then_folder_content_and_bound_are_told(folder: Path) -> None:
    found = call("cache", "info")
    assert found.exit_code == 0
    assert str(folder) in found.output
    assert "1 request" in found.output
    assert "at most 2.0 GB" in found.output


def test_info_when_json_is_asked_for_then_it_is_numbers(folder: Path) -> None:
    found = json.loads(call("cache", "info", "--json").output)
    assert (found["folder"], found["patches"], found["max_bytes"]) == (str(folder), 1, 2 * 10**9)
    assert found["bytes"] > 0


def test_info_when_the_cache_is_off_then_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSEMBED_INPUT_CACHE_GB", "0")
    assert "off" in call("cache", "info").output


def test_clear_when_called_then_nothing_is_left(folder: Path) -> None:
    assert "removed   1 request" in call("cache", "clear").output
    assert list(folder.rglob("*.patch")) == []
    assert call("cache", "clear").exit_code == 0


def test_export_when_help_is_asked_for_then_the_bound_of_the_cache_is_explained() -> None:
    text = " ".join(call("export", "--help").output.split())
    assert "RSEMBED_INPUT_CACHE_GB" in text
    assert "--no-cache" in text


def test_export_when_told_two_things_of_the_cache_then_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text("lon,lat\n2,42\n")
    table, out = str(tmp_path / "places.csv"), str(tmp_path / "out")
    found = call("export", table, "--model", "null", "--out", out, "--no-cache", "--cache-gb", "3")
    assert found.exit_code == 2
    assert "not both" in found.output
