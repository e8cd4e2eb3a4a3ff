from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rsembed.core.errors import ModelError, SpecError
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
