"""The catalogue is a table of names: cards are readable without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rsembed.core.errors import UnknownModelError
from rsembed.embedders.catalog import ALIASES, MODEL_SPECS
from rsembed.embedders.describe import describe_card
from rsembed.embedders.registry import REGISTRY


def loaded_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("module", sorted(module for module, _ in MODEL_SPECS.values()))
def test_model_file_when_imported_then_torch_is_not(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "huggingface_hub", "PIL", "safetensors"}


def test_registry_when_names_are_listed_then_no_model_is_imported() -> None:
    modules = loaded_after("from rsembed.embedders.registry import REGISTRY; REGISTRY.names(include_aliases=True)")
    assert not {module for module, _ in MODEL_SPECS.values()} & modules


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_registry_when_an_alias_is_used_then_the_model_is_found(alias: str) -> None:
    assert REGISTRY.resolve(alias.upper()) == ALIASES[alias]
    assert ALIASES[alias] in MODEL_SPECS


def test_registry_when_a_name_is_misspelt_then_the_nearest_is_offered() -> None:
    with pytest.raises(UnknownModelError, match="did you mean prithvi"):
        REGISTRY.get("prithvy")


@pytest.mark.parametrize("name", sorted(MODEL_SPECS))
def test_describe_card_when_called_then_plain_json_that_may_be_changed(name: str) -> None:
    card = REGISTRY.get(name).card
    described = describe_card(card)
    assert json.loads(json.dumps(described)) == described
    described["output"].append("changed")
    described["inputs"].clear()
    assert describe_card(card) != described
    assert list(describe_card(card)["output"]) == list(card.outputs)
