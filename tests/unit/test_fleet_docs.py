"""docs/fleet.md, held against the code: settings, metrics, alerts, error classes, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
import yaml

from rsembed.core.errors import RSEmbedError, classify
from rsembed.core.settings import Settings
from workers.cli.group import fleet
from workers.ledger.records import RunState
from workers.metrics import METRICS
from workers.settings import FleetSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
SHOWN_ELSEWHERE = {"XDG_CACHE_HOME", "RSEMBED_PLUGINS"}


class Asked(Mapping[str, str]):
    """An environment that remembers what it was asked for, and answers with ``given``."""

    def __init__(self, **given: str) -> None:
        self.names: set[str] = set()
        self._given = given

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def table(head: str) -> list[list[str]]:
    """The cells of the table under the line ``head``."""
    found = TEXT.partition(f"\n{head}\n")[2]
    assert found, head
    lines = found.splitlines()[1:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


SETTINGS = table("| variable | default | what it says |")


def test_settings_when_listed_then_they_are_those_that_are_read(tmp_path: Path) -> None:
    asked = Asked(RSEMBED_HOME=str(tmp_path))
    FleetSettings.from_environment(asked)
    assert {names(row[0])[0] for row in SETTINGS} == asked.names


def test_settings_when_a_default_is_given_then_it_is_the_code_s(tmp_path: Path) -> None:
    given = {names(name)[0]: default for name, default, _ in SETTINGS}
    plain = {name: value for name, value in given.items() if not value.startswith(("-", "`"))}
    home = {"RSEMBED_HOME": str(tmp_path)}
    assert FleetSettings.from_environment({**home, **plain}) == FleetSettings.from_environment(home)
    assert len(plain) > 10


def test_settings_when_the_library_reads_them_then_they_are_listed() -> None:
    asked = Asked()
    Settings.from_environment(asked)
    listed = {name for row in table("| variable | what it says |") for name in names(row[0])}
    assert listed == asked.names - SHOWN_ELSEWHERE


def test_metrics_when_listed_then_name_and_help_are_the_code_s() -> None:
    assert {names(name)[0]: text for name, text in table("| metric | tells |")} == dict(METRICS)


def test_alerts_when_listed_then_each_is_there_once() -> None:
    rules = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    alerts = sorted(rule["alert"] for group in rules["groups"] for rule in group["rules"])
    assert sorted(name for row in table("| alert | look at |") for name in names(row[0])) == alerts


def error_classes(kind: type[RSEmbedError] = RSEmbedError) -> set[str]:
    """Every class of error that the tree knows."""
    return {kind.error_class}.union(*(error_classes(each) for each in kind.__subclasses__()))


def test_error_classes_when_listed_then_they_exist() -> None:
    listed = {names(row[0])[0] for row in table("| class | means | retry |")}
    others = {classify(MemoryError()), classify(ValueError()), "crash"}
    assert listed <= error_classes() | others
    assert others <= listed


def test_states_when_listed_then_they_are_all() -> None:
    sentence = TEXT.partition("States of a run: ")[2].partition(".")[0]
    assert names(sentence) == [state.value for state in RunState]


def commands() -> list[str]:
    """Every command that the page shows, in a block or in a sentence, up to the first word in capitals."""
    blocks = re.findall(r"^\$ rsembed fleet (.*)$", TEXT, flags=re.MULTILINE)
    inline = re.findall(r"`rsembed fleet ([^`]+)`", TEXT)
    listed = [name for row in table("| command | does |") for name in names(row[0])]
    return [re.split(r" (?=[A-Z.\[])", each)[0] for each in (*blocks, *inline, *listed)]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_command_when_shown_then_it_and_its_options_exist(line: str) -> None:
    words = shlex.split(line)
    command: click.Command = fleet
    while isinstance(command, click.Group) and words:
        _, command_found, words = command.resolve_command(click.Context(command), words)
        assert command_found is not None
        command = command_found
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= options
