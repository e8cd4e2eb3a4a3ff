from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsembed.api import describe_model, list_models
from rsembed.cli.main import cli
from rsembed.cli.model_page import model_page, span
from rsembed.cli.models import documents
from rsembed.cli.page import Entries, Items, Page, Section, Table, Words, columns, markdown, text_lines
from rsembed.embedders.catalog import MODEL_SPECS

PAGES = Path(__file__).resolve().parents[3] / "docs" / "models"


def test_models_when_listed_then_every_model_has_a_line() -> None:
    result = CliRunner().invoke(cli, ["models"])
    assert result.exit_code == 0
    first_words = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    assert set(list_models()) <= set(first_words)


def test_models_when_only_commercial_then_licences_say_so() -> None:
    result = CliRunner().invoke(cli, ["models", "--commercial", "--json"])
    assert {about["licence"]["commercial"] for about in json.loads(result.output)} == {"yes"}


@pytest.mark.parametrize("name", sorted(MODEL_SPECS))
def test_describe_when_asked_then_all_that_the_card_says_is_there(name: str) -> None:
    result = CliRunner().invoke(cli, ["describe", name])
    assert result.exit_code == 0
    for section in ("Takes", "Gives", "Recipe authors", "Recipe rs-embed", "Licence of the weights", "Sources"):
        assert f"\n{section}" in result.output
    about, words = describe_model(name), " ".join(result.output.split())
    facts = [about["licence"]["name"], f"Commercial use: {about['licence']['commercial']}"]
    facts += [about["paper"], about["source"]]
    facts += [step["text"] for step in about["recipes"]["authors"]]
    for variant, file in about["weights"].items():
        facts += [variant, file["file"], file["url"] or file["repo"] or "not published", (file["revision"] or "")[:12]]
    facts += [option["name"] for option in about["options"]]
    for bands in (given["bands"] for given in about["inputs"].values()):
        facts += [", ".join(bands) if len(bands) <= 32 else f"{bands[0]} to {bands[-1]}"]
    facts += [fetch["collection"] for by in about["fetch"].values() for fetch in by.values()]
    for fact in facts:
        assert " ".join(fact.split()) in words
    assert max(len(line) for line in result.output.splitlines() if not line.startswith("  " * 2)) < 200


def test_describe_when_recipes_differ_then_both_are_marked_where_they_do() -> None:
    steps = {
        "authors": [{"text": "first", "status": "documented"}, {"text": "same", "status": "verified"}],
        "rs-embed": [{"text": "other", "status": "inferred"}, {"text": "same", "status": "verified"}],
    }
    lines = list(text_lines(model_page({**describe_model("mosaiks"), "recipes": steps})))
    assert "* documented  first" in lines
    assert "  verified    same" in lines
    assert "* inferred  other" in lines
    assert sum("same" in line for line in lines) == 1


def test_describe_when_recipes_are_equal_then_it_says_so() -> None:
    assert "  The same steps." in list(text_lines(model_page(describe_model("mosaiks"))))


def test_describe_when_recipes_pool_differently_then_both_ways_are_told() -> None:
    about = {**describe_model("mosaiks"), "pooled": {"authors": "vector", "rs-embed": "tokens"}}
    text = " ".join(" ".join(text_lines(model_page(about))).split())
    assert "with recipe authors the network's own vector of its whole input, with recipe rs-embed the mean" in text


def test_describe_when_asked_for_json_then_it_is_the_card() -> None:
    result = CliRunner().invoke(cli, ["describe", "mosaiks", "--json"])
    assert json.loads(result.output)["id"] == "mosaiks"


def test_describe_when_unknown_then_the_nearest_name_is_told() -> None:
    result = CliRunner().invoke(cli, ["describe", "mosaik"])
    assert result.exit_code == 2
    assert "did you mean mosaiks" in result.stderr


# Pages


def test_pages_when_cards_change_then_the_committed_ones_are_written_again() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in PAGES.iterdir()}
    stale = sorted(name for name, text in documents().items() if committed.get(name) != text)
    assert not stale, "run: rsembed models --write-docs docs/models"
    assert set(committed) == set(documents())


def test_models_when_pages_are_asked_for_then_one_a_model_and_a_table(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["models", "--write-docs", str(tmp_path / "pages")])
    assert result.exit_code == 0
    written = {path.name for path in (tmp_path / "pages").iterdir()}
    assert written == {"README.md", *(f"{name}.md" for name in MODEL_SPECS)}
    table = (tmp_path / "pages" / "README.md").read_text()
    assert all(f"| [{name}]({name}.md) |" in table for name in MODEL_SPECS)


PAGE = Page(
    "tiny: a model",
    "Small.",
    (
        Section("Words", (Words("a_b and `c_d`, 2 * 3"),)),
        Section("Lists", (Items((("*", "verified", "one"), ("", "said", "two"))), Entries((("x=1", ("help", "1")),)))),
        Section("Table", (Table(("a", "b"), (("1", "2 | 3"),)),)),
    ),
)


def test_markdown_when_written_then_its_own_signs_are_plain() -> None:
    text = markdown(PAGE)
    assert text.startswith("# tiny: a model\n\nSmall.\n\n## Words\n\n")
    assert r"a_b and `c_d`, 2 \* 3" in text
    assert "- \\* *verified*: one\n- *said*: two" in text
    assert "- `x=1`: help; 1" in text
    assert "| a | b |\n| --- | --- |\n| 1 | 2 \\| 3 |" in text


def test_text_when_printed_then_it_is_wrapped_under_its_own_column() -> None:
    page = Page("t", "l", (Section("S", (Items((("", "said", "one two three four five six"),)),)),))
    assert list(text_lines(page, 22))[3:] == ["  said  one two three", "        four five six"]
    assert "  a  b" in list(text_lines(PAGE))


def test_columns_when_printed_then_aligned() -> None:
    assert list(columns([("a", "bb"), ("ccc", "d")])) == ["a    bb", "ccc  d"]


@pytest.mark.parametrize(("numbers", "expected"), [([], ""), ([1, 1], "1"), ([3, 1, 2], "1 - 3")])
def test_span_when_given_numbers_then_least_and_most(numbers: list[int], expected: str) -> None:
    assert span(numbers) == expected


# Weights


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
