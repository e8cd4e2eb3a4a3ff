"""Rows 19 to 21 of the reference's contract: what a model says about itself, without its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

import rsembed
from rsembed import Model, ModelError
from rsembed.core.card import ModelCard
from rsembed.embedders.base import EmbedderConfig
from rsembed.embedders.catalog import MODEL_SPECS
from rsembed.embedders.registry import REGISTRY, register
from rsembed.testing.null import NullEmbedder

KEYS = {
    "id": str, "aliases": list, "type": str, "title": str, "summary": str, "paper": str, "source": str, "backend": list,
    "inputs": dict, "input_bands": list, "output": list, "dims": dict, "options": list, "model_config": dict,
    "defaults": dict, "weights": dict, "licence": dict, "recipes": dict, "fetch": dict, "notes": list,
}  # fmt: skip


# Row 19: every model of the catalogue, without torch and without its weights


def test_describe_when_all_models_are_asked_then_no_weights_and_no_torch() -> None:
    program = (
        "import json, sys, rsembed\n"
        "found = {name: rsembed.describe_model(name) for name in rsembed.list_models()}\n"
        "heavy = [m for m in ('torch', 'ee', 'rasterio', 'huggingface_hub', 'safetensors') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "print(json.dumps(found, allow_nan=False))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == sorted(MODEL_SPECS)
    assert found == {name: rsembed.describe_model(name) for name in MODEL_SPECS}


@pytest.mark.parametrize("name", sorted(MODEL_SPECS))
def test_describe_when_a_model_is_asked_then_one_schema_for_all(name: str) -> None:
    about = rsembed.describe_model(name)
    assert {key: type(about[key]) for key in KEYS} == KEYS
    assert about["id"] == name
    assert about["type"] in ("onthefly", "precomputed")
    assert set(about["output"]) <= {"pooled", "grid"}
    assert "pooled" in about["output"]
    assert about["input_bands"] == next(iter(about["inputs"].values()))["bands"] != []
    assert about["dims"]
    for contract in about["inputs"].values():
        assert contract["collection"]
        assert contract["image_size"] > 0
        assert contract["scale_m"] > 0
    assert {"modality", "image_size", "scale_m", "fill_value"} <= set(about["defaults"])
    for option in about["options"]:
        # An option left open (None) shows what it comes to.
        assert option["default"] in (None, about["defaults"][option["name"]])
        assert about["model_config"][option["name"]]["default"] == option["default"]


@pytest.mark.parametrize("name", sorted(MODEL_SPECS))
def test_describe_when_its_defaults_are_given_back_then_they_are_accepted(name: str) -> None:
    about = rsembed.describe_model(name)
    options = {option["name"]: option["default"] for option in about["options"]}
    Model(name, modality=about["defaults"]["modality"], **options)
    for modality in about["inputs"]:
        Model(name, modality=modality)


# Row 20: equal every time, whatever was done to an earlier answer


def test_describe_when_an_answer_is_changed_deep_inside_then_the_next_one_is_whole() -> None:
    def spoil(value: Any) -> None:
        for inner in list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()):
            spoil(inner)
        if isinstance(value, (dict, list)):
            value.clear()

    for name in ("prithvi", "terrafm", "gse", "null"):
        before = json.dumps(rsembed.describe_model(name), sort_keys=True)
        spoil(rsembed.describe_model(name))
        spoil(Model(name).describe())
        assert json.dumps(rsembed.describe_model(name), sort_keys=True) == before
        assert json.dumps(Model(name).describe(), sort_keys=True) == before


def test_describe_when_everything_listed_is_asked_then_all_answer() -> None:
    for name in rsembed.list_models(include_aliases=True):
        if name in MODEL_SPECS or REGISTRY.resolve(name) in MODEL_SPECS:
            assert rsembed.describe_model(name)["id"] == REGISTRY.resolve(name)


# Row 21: a card that cannot be read is an error. `Model.describe` does not hide it behind an empty dictionary.


def test_describe_when_a_models_file_is_broken_then_model_error_everywhere() -> None:
    @register("contract-broken")
    class Broken(NullEmbedder):
        card: ModelCard = replace(NullEmbedder.card, id="contract-broken")

        def __init__(self, config: EmbedderConfig | None = None) -> None:
            raise ModelError("this model cannot be made")

    try:
        for way in (lambda: rsembed.describe_model("contract-broken"), lambda: Model("contract-broken")):
            with pytest.raises(ModelError, match="this model cannot be made"):
                way()
    finally:
        REGISTRY.unregister("contract-broken")
    assert "contract-broken" not in rsembed.list_models()
