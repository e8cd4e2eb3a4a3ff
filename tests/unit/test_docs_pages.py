"""Tables of the pages in docs/, held against the code: statuses, columns, models, what became of rs-embed's names."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

import rsembed
from rsembed import ExportConfig, InputPrepSpec, RowStatus, SensorSpec
from rsembed.cli.main import cli
from rsembed.core.settings import Settings
from rsembed.embedders.catalog import MODEL_SPECS
from rsembed.writers.dataset import RESERVED_COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def section(page: str, title: str) -> str:
    """What stands under a heading, up to the next one."""
    text = (DOCS / page).read_text("utf-8")
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no heading {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the first table's rows."""
    table = re.search(r"^\| .*\n\| -.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert table
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[1].splitlines()]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_statuses_when_listed_then_they_are_all_and_tell_who_has_an_embedding() -> None:
    listed = {codes(name)[0]: embedding for name, _, embedding in rows(section("concepts.md", "How a row ends"))}
    assert listed == {status.value: "yes" if status.has_embedding else "no" for status in RowStatus}


def test_columns_of_a_dataset_when_listed_then_they_are_those_that_are_written() -> None:
    text = section("outputs.md", "Datasets").partition("Columns of a part:")[2]
    assert sorted(name for row in rows(text) for name in codes(row[0])) == sorted(RESERVED_COLUMNS)


def test_settings_when_they_name_models_then_these_exist() -> None:
    text = section("settings.md", "Which model")
    named = {name for _, cell in rows(text) for name in codes(cell) if re.fullmatch(r"[a-z]+", name)}
    assert len(named) > 15
    assert named <= set(MODEL_SPECS)


MIGRATION = {title: rows(section("migration.md", title)) for title in (
    "Functions and classes", "Arguments", "Specs", "ExportConfig", "Command line", "Environment",
)}  # fmt: skip


def kept(title: str) -> list[str]:
    """Names of rs-embed that the page says are the same here."""
    return [name for theirs, ours in MIGRATION[title] if ours.startswith("the same") for name in codes(theirs)]


def test_migration_when_functions_are_the_same_then_they_are_public() -> None:
    names = {re.split(r"\W", name)[0] for name in kept("Functions and classes")}
    assert {"get_embedding", "export_batch", "load_export", "Model"} <= names
    assert names <= set(rsembed.__all__)


@pytest.mark.parametrize("function", [rsembed.get_embedding, rsembed.Model])
def test_migration_when_arguments_are_the_same_then_they_are_taken(function: Any) -> None:
    names = set(kept("Arguments"))
    assert {"sensor", "output"} <= names
    of_a_call = {"spatial", "temporal"} if function is rsembed.Model else set()
    assert names - of_a_call <= set(inspect.signature(function).parameters)


def test_migration_when_arguments_are_new_then_they_are_taken() -> None:
    [new] = [codes(ours) for theirs, ours in MIGRATION["Arguments"] if theirs == "-"]
    assert set(new) <= set(inspect.signature(rsembed.get_embeddings_batch).parameters)


def test_migration_when_specs_are_the_same_then_their_fields_are() -> None:
    fields: Mapping[str, set[str]] = {
        "SensorSpec": {each.name for each in dataclasses.fields(SensorSpec)},
        "ExportModelRequest": {each.name for each in dataclasses.fields(rsembed.ExportModelRequest)},
        "PointBuffer": {each.name for each in dataclasses.fields(rsembed.PointBuffer)},
    }
    seen = set()
    for name in kept("Specs"):
        spec, _, given = name.rstrip(")").partition("(")
        if spec in fields and given:
            assert set(given.split(", ")) <= fields[spec], name
            seen.add(spec)
    assert seen == set(fields)
    [tiles] = [ours for theirs, ours in MIGRATION["Specs"] if "InputPrepSpec.tile" in theirs]
    taken = {name for name in codes(tiles) if name != "pad_edges"}
    assert taken == set(inspect.signature(InputPrepSpec.tile).parameters)


def test_migration_when_settings_of_an_export_are_listed_then_all_are_accepted() -> None:
    names = [name for theirs, _ in MIGRATION["ExportConfig"] for name in codes(theirs)]
    assert len(names) == 16
    assert set(names) <= set(inspect.signature(ExportConfig).parameters)
    for theirs, ours in MIGRATION["ExportConfig"]:
        if ours.startswith("another name of"):
            defaults = ExportConfig()
            assert getattr(ExportConfig(**{codes(theirs)[0]: 5}), codes(ours)[0]) == 5
            assert f"({getattr(defaults, codes(ours)[0])})" in ours or "card" in ours


def options_of(command: click.Command) -> set[str]:
    """Every option of a command and those below it."""
    found = {name for each in command.params for name in each.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in ("export", "embed", "inspect"):
            below = command.get_command(context, name)
            found |= set() if below is None else options_of(below)
    return found


def test_migration_when_it_names_commands_and_options_of_ours_then_they_exist() -> None:
    known, commands = options_of(cli), set(cli.list_commands(click.Context(cli)))
    for theirs, ours in MIGRATION["Command line"]:
        said = ours if not ours.startswith("the same") else theirs + ours
        assert set(re.findall(r"--[a-z-]+", said)) - {"--retry-backoff-s"} <= known, theirs
        first = {code.split()[0] for code in codes(ours) if not code.startswith("-")} - {"rsembed", "python"}
        assert first <= commands, theirs


def test_migration_when_it_names_variables_of_ours_then_they_are_read() -> None:
    asked: set[str] = set()

    class Environment(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return default

        def __contains__(self, key: object) -> bool:
            asked.add(str(key))
            return False

    Settings.from_environment(Environment())
    named = {name for _, ours in MIGRATION["Environment"] for name in re.findall(r"RSEMBED_[A-Z_]+", ours)}
    assert named
    assert named <= asked
