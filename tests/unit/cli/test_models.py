from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsembed.api import list_models
from rsembed.cli.main import cli
from rsembed.cli.models import columns, span


def test_models_when_listed_then_every_model_has_a_line() -> None:
    result = CliRunner().invoke(cli, ["models"])
    assert result.exit_code == 0
    first_words = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    assert set(list_models()) <= set(first_words)


def test_models_when_only_commercial_then_licences_say_so() -> None:
    result = CliRunner().invoke(cli, ["models", "--commercial", "--json"])
    assert {about["licence"]["commercial"] for about in json.loads(result.output)} == {"yes"}


@pytest.mark.parametrize("name", ["mosaiks", "prithvi"])
def test_describe_when_asked_then_sections_are_there(name: str) -> None:
    result = CliRunner().invoke(cli, ["describe", name])
    assert result.exit_code == 0
    for section in ("Takes", "Gives", "Recipe authors", "Weights", "Licence", "Sources"):
        assert f"\n{section}" in result.output


def test_describe_when_asked_for_json_then_it_is_the_card() -> None:
    result = CliRunner().invoke(cli, ["describe", "mosaiks", "--json"])
    assert json.loads(result.output)["id"] == "mosaiks"


def test_describe_when_unknown_then_the_nearest_name_is_told() -> None:
    result = CliRunner().invoke(cli, ["describe", "mosaik"])
    assert result.exit_code == 2
    assert "did you mean mosaiks" in result.stderr


def test_weights_when_listed_then_nothing_is_fetched(tmp_path: Path) -> None:
    environ = {"RSEMBED_WEIGHTS_DIR": str(tmp_path), "RSEMBED_CACHE_DIR": str(tmp_path), "RSEMBED_OFFLINE": "1"}
    result = CliRunner(env=environ).invoke(cli, ["weights", "list", "--json"])
    assert result.exit_code == 0
    assert "prithvi" in {each["model"] for each in json.loads(result.output)}
    assert not list(tmp_path.rglob("*.pt"))


def test_weights_when_pulled_for_a_model_without_any_then_it_says_so() -> None:
    result = CliRunner().invoke(cli, ["weights", "pull", "mosaiks"])
    assert "has no weights" in result.output


def test_weights_when_missing_and_offline_then_the_error_says_where_it_looked(tmp_path: Path) -> None:
    environ = {
        "RSEMBED_WEIGHTS_DIR": str(tmp_path), "RSEMBED_CACHE_DIR": str(tmp_path), "RSEMBED_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path),
    }  # fmt: skip
    result = CliRunner(env=environ).invoke(cli, ["weights", "pull", "prithvi", "--variant", "no-such"])
    assert result.exit_code == 2
    assert "no-such" in result.stderr


def test_columns_when_printed_then_aligned() -> None:
    assert list(columns([("a", "bb"), ("ccc", "d")])) == ["a    bb", "ccc  d"]


@pytest.mark.parametrize(("texts", "expected"), [([], ""), (["1", "1"], "1"), (["1", "2", "3"], "1 - 3")])
def test_span_when_given_texts_then_first_and_last(texts: list[str], expected: str) -> None:
    assert span(texts) == expected
