"""Modules of the user's that add models and backends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsembed.cli.main import cli
from rsembed.core.errors import SpecError
from rsembed.core.settings import Settings
from rsembed.embedders.registry import REGISTRY
from rsembed.plugins import load_plugins

PLUGIN = """
from dataclasses import replace
from rsembed.embedders.registry import register
from rsembed.testing.null import NullEmbedder

@register("from-outside")
class Outside(NullEmbedder):
    card = replace(NullEmbedder.card, id="from-outside", title="A model from outside")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside_plugin", raising=False)
    return "outside_plugin"


def test_plugins_when_loaded_then_what_they_register_is_known(plugin: str) -> None:
    load_plugins([plugin])
    assert REGISTRY.get("from-outside").card.title == "A model from outside"


def test_plugins_when_one_cannot_be_imported_then_its_name_and_cause_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the plug-in 'no_such_plugin' .* No module named"):
        load_plugins(["no_such_plugin"])


def test_plugins_when_named_in_the_environment_then_commands_know_them(plugin: str) -> None:
    result = CliRunner().invoke(cli, ["describe", "from-outside"], env={"RSEMBED_PLUGINS": plugin})
    assert result.exit_code == 0, result.output
    assert "A model from outside" in result.output


def test_plugins_when_one_named_in_the_environment_is_missing_then_refused() -> None:
    result = CliRunner().invoke(cli, ["models"], env={"RSEMBED_PLUGINS": "no_such_plugin"})
    assert result.exit_code == 2
    assert "RSEMBED_PLUGINS" in result.stderr


def test_settings_when_plugins_are_named_then_blanks_do_not_count() -> None:
    found = Settings.from_environment({"RSEMBED_PLUGINS": " a, b.c ,,", "RSEMBED_DEVICE": "cuda"})
    assert found.plugins == ("a", "b.c")
    assert found.device == "cuda"
