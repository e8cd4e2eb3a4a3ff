from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsembed.core.errors import ModelError, SpecError
from rsembed.core.specs import InputPrepSpec
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, ExportTarget, RunRequest


@pytest.mark.parametrize(
    ("text", "name", "options", "modality", "label"),
    [
        ("prithvi", "prithvi", {}, None, None),
        (" prithvi ", "prithvi", {}, None, None),
        ("prithvi:variant=600_tl@p600", "prithvi", {"variant": "600_tl"}, None, "p600"),
        ("m: a=1 , b=x=y ,modality=s1", "m", {"a": "1", "b": "x=y"}, "s1", None),
        ("m@", "m", {}, None, None),
        ("m:@l", "m", {}, None, "l"),
    ],
)
def test_model_request_when_parsed_then_its_parts(
    text: str, name: str, options: dict[str, str], modality: str | None, label: str | None
) -> None:
    found = ExportModelRequest.parse(text)
    assert (found.name, found.model_config, found.modality, found.label) == (name, options, modality, label)


def test_model_request_when_an_option_has_no_value_then_the_form_is_shown() -> None:
    with pytest.raises(ModelError, match=r"name:option=value,.*got 'big'"):
        ExportModelRequest.parse("m:big")


def test_model_request_when_configured_then_options_by_keyword() -> None:
    found = ExportModelRequest.configure("m", label="l", modality="s1", size=3)
    assert found == ExportModelRequest("m", None, None, "s1", {"size": 3}, "l")


@pytest.mark.parametrize(
    "name", ["shard_size", "threads", "shards_per_part", "fetch_workers", "max_attempts", "batch_size"]
)
@pytest.mark.parametrize("value", [0, -1, 2.5, "8", True])
def test_config_when_a_count_is_no_count_then_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"{name} must be a whole number of at least 1"):
        ExportConfig(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"min_valid_fraction": -0.1}, {"min_valid_fraction": 1.1}, {"min_valid_fraction": math.nan}, {"buffer_m": 0.0},
        {"buffer_m": math.nan}, {"buffer_m": math.inf}, {"dtype": "float64"}, {"input_prep": "crop"},
    ],
)  # fmt: skip
def test_config_when_a_value_is_wrong_then_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        ExportConfig(**changes)


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"chunk_size": 16}, "shard_size", 16),
        ({"infer_batch_size": 4}, "batch_size", 4),
        ({"infer_batch_size": None}, "batch_size", None),
        ({"num_workers": 3}, "fetch_workers", 3),
        ({"max_retries": 0}, "max_attempts", 1),
        ({"max_retries": 2, "max_attempts": 3}, "max_attempts", 3),
    ],
)
def test_config_when_the_references_names_are_given_then_they_are_ours(
    given: dict[str, Any], field: str, value: object
) -> None:
    config = ExportConfig(**given)
    assert getattr(config, field) == value
    assert getattr(replace(config, save_inputs=False), field) == value
    assert replace(config, **{field: 7}) == ExportConfig(**{field: 7})


@pytest.mark.parametrize(
    "given",
    [
        {"chunk_size": 16, "shard_size": 8}, {"infer_batch_size": 4, "batch_size": 2},
        {"num_workers": 3, "fetch_workers": 2}, {"max_retries": 3, "max_attempts": 2},
    ],
)  # fmt: skip
def test_config_when_two_names_of_one_setting_disagree_then_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is another name of"):
        ExportConfig(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"format": "zip"}, {"format": None}, {"save_inputs": 1}, {"resume": "yes"}, {"retry_backoff_s": -1.0},
        {"retry_backoff_s": math.nan}, {"max_retries": True}, {"chunk_size": 0}, {"num_workers": 1.5},
        {"writer_workers": 0}, {"async_write": None}, {"precision": "fp8"}, {"recipe": "none"}, {"context": "wide"},
        {"input_prep": 3}, {"min_valid_fraction": "half"}, {"buffer_m": "40"},
    ],
)  # fmt: skip
def test_config_when_a_value_is_of_the_wrong_kind_then_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        ExportConfig(**given)


def test_config_when_input_prep_is_a_word_then_it_stands_for_its_spec() -> None:
    assert ExportConfig().prep == InputPrepSpec.tile()
    assert ExportConfig(input_prep="resize").prep == InputPrepSpec.resize()
    assert ExportConfig(input_prep=InputPrepSpec.auto()).prep == InputPrepSpec.auto()


def test_run_request_when_no_model_is_named_then_refused() -> None:
    with pytest.raises(ModelError, match="at least one model"):
        RunRequest(())


def test_run_request_when_config_is_changed_then_it_is_checked() -> None:
    request = RunRequest((ExportModelRequest("m"),))
    assert request.with_config(shard_size=3).config.shard_size == 3
    with pytest.raises(SpecError):
        request.with_config(shard_size=0)


def test_target_when_a_folder_is_named_by_text_then_it_is_a_path() -> None:
    assert ExportTarget.dataset("x", npz=True) == ExportTarget(Path("x"), True)
