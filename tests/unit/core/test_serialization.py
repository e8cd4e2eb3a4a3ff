from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pytest

from rsembed.core.embedding import RowStatus
from rsembed.core.errors import SpecError
from rsembed.core.fetching import FetchRecipe
from rsembed.core.serialization import canonical, differences, digest, to_json


def test_to_json_when_given_dataclasses_then_fields_in_plain_form() -> None:
    plain: Any = to_json(FetchRecipe("C", 10.0))
    assert plain["scale_m"] == 10
    assert plain["clouds"] == {"mask": "scl", "scene_pct": 60, "relax_pct": 90}
    json.dumps(plain)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (RowStatus.OK, "ok"), (dt.date(2022, 1, 2), "2022-01-02"), ((1, (2,)), [1, [2]]), (2.0, 2), (2.5, 2.5),
        (-0.0, 0), (True, True), (None, None), ({RowStatus.OK: 1, 2: 3}, {"ok": 1, "2": 3}),
    ],
)  # fmt: skip
def test_to_json_when_given_values_then_their_plain_form(value: object, plain: object) -> None:
    assert to_json(value) == plain
    assert type(to_json(value)) is type(plain)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, object(), test_to_json_when_given_dataclasses_then_fields_in_plain_form, {1, 2}, b"x",
     Path("x"), FetchRecipe, {object(): 1}, {FetchRecipe("C", 1.0): 1}],
)  # fmt: skip
def test_to_json_when_the_text_could_differ_between_processes_then_refused(value: object) -> None:
    with pytest.raises(SpecError, match="written as JSON"):
        to_json({"x": value})
    with pytest.raises(SpecError, match="written as JSON"):
        canonical([value])


def test_canonical_when_order_of_keys_differs_then_text_does_not() -> None:
    assert canonical({"b": 1, "a": [1.0]}) == canonical({"a": [1], "b": 1}) == '{"a":[1],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_differences_when_values_differ_then_each_is_named_by_its_path() -> None:
    old = {"a": 1, "b": {"c": [1, 2]}, "d": 1}
    new = {"a": 1, "b": {"c": [1, 3]}, "e": 1}
    assert differences(old, new) == ["b.c[1]: 2 -> 3", "d: 1 -> (absent)", "e: (absent) -> 1"]


def test_differences_when_lists_have_other_lengths_then_both_are_shown() -> None:
    assert differences({"x": [1]}, {"x": [1, 2]}) == ["x: [1] -> [1, 2]"]


def test_differences_when_a_value_is_long_then_it_is_cut() -> None:
    assert len(differences("x" * 500, "y")[0]) < 120
