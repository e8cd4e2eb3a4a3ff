"""Plain JSON back into values."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pytest

from rsembed.core.errors import SpecError
from rsembed.core.patch import Json
from rsembed.core.serialization import from_json, to_json
from rsembed.core.specs import BBox, InputPrepSpec, SensorSpec
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Leaf:
    size: float
    name: str = "leaf"


@dataclass(frozen=True)
class Tree:
    age: int
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, str] = (0, "")
    tall: bool = False
    day: dt.date | None = None
    colour: Colour | None = None
    mode: Literal["a", "b", 3] = "a"
    named: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    at: BBox | None


FULL = Tree(
    age=7,
    leaf=Leaf(2.0),
    leaves=(Leaf(0.5, "x"), Leaf(1.5)),
    pair=(3, "z"),
    tall=True,
    day=dt.date(2022, 2, 3),
    colour=Colour.RED,
    mode=3,
    named={"a": 1},
    free={"deep": [1, {"x": None}], "flat": "y"},
)


def test_from_json_when_it_reads_what_to_json_wrote_then_the_value_is_the_same() -> None:
    back = from_json(Tree, json.loads(json.dumps(to_json(FULL))))
    assert back == FULL
    assert isinstance(back.leaf.size, float)


def test_from_json_when_fields_with_defaults_are_left_out_then_they_have_them() -> None:
    assert from_json(Tree, {"age": 1, "leaf": {"size": 1}}) == Tree(1, Leaf(1.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": "7"}, "age must be a whole number, got '7'"),
        ({"age": True}, "age must be a whole number, got True"),
        ({"age": 1.5}, "age must be a whole number"),
        ({"tall": 1}, "tall must be true or false"),
        ({"leaf": {"size": "big"}}, "leaf.size must be a finite number, got 'big'"),
        ({"leaf": {"size": 1, "colour": 2}}, "leaf has no field 'colour'; it has size, name"),
        ({"leaf": {}}, "leaf lacks 'size'"),
        ({"leaf": 3}, "leaf must be an object (Leaf), got 3"),
        ({"leaves": [{"size": 1}, {"size": None}]}, "leaves[1].size must be a finite number"),
        ({"leaves": "ab"}, "leaves must be a list"),
        ({"pair": [1]}, "pair must be a list of 2"),
        ({"day": "someday"}, "day must be an ISO date"),
        ({"colour": "blue"}, "colour must be one of red"),
        ({"mode": "c"}, "mode must be one of 'a', 'b', 3"),
        ({"named": {"a": "x"}}, "named.a must be a whole number"),
        ({"twig": 1}, "Tree has no field 'twig'"),
    ],
)
def test_from_json_when_something_is_wrong_then_its_place_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_json(Tree, {"age": 1, "leaf": {"size": 1}, **change})
    assert said in str(caught.value)


def test_from_json_when_the_dataclass_refuses_then_its_reason_comes_with_the_place() -> None:
    broken = {"models": [{"name": "x"}], "config": {"shard_size": 0}}
    with pytest.raises(SpecError, match="config: shard_size must be a whole number of at least 1"):
        from_json(RunRequest, broken)


def test_from_json_when_a_request_was_written_then_it_is_the_same_request() -> None:
    request = RunRequest(
        models=(
            ExportModelRequest.configure("a", sensor=SensorSpec("C", ("B1",), cloudy_pct="recipe"), label="x", n=2),
            ExportModelRequest.configure("b", modality="s1", flag=True, none=None, share=0.25),
        ),
        config=ExportConfig(buffer_m=120, input_prep=InputPrepSpec.auto(), context="none"),
        device="cuda",
    )
    assert from_json(RunRequest, json.loads(json.dumps(to_json(request)))) == request


def test_from_json_when_a_union_has_dataclasses_then_the_one_that_fits_is_read() -> None:
    assert from_json(Where, {"at": None}).at is None
    assert from_json(Where, {"at": to_json(BBox(0, 1, 2, 3))}).at == BBox(0, 1, 2, 3)
    with pytest.raises(SpecError, match=r"at: minlon must be less"):
        from_json(Where, {"at": to_json(BBox(0, 1, 2, 3)) | {"minlon": 9}})  # type: ignore[operator]
