"""Requests as JSON, as the fleet and the files of a run keep them: read back equal, or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsembed.core.errors import RSEmbedError, SpecError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FramePolicy
from rsembed.core.serialization import canonical, digest, from_json, to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import BBox, FetchSpec, InputPrepSpec, OutputSpec, PointBuffer, SensorSpec, TemporalSpec, Window
from rsembed.pipelines.plan import fingerprint, plan_run
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.testing.null import NullProvider

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
SCALES = st.floats(0.1, 1e5)
DAYS = st.dates().map(lambda day: day.isoformat())
SENSORS = st.builds(
    SensorSpec, NAMES, st.lists(NAMES, min_size=1, max_size=4).map(tuple), SCALES,
    st.none() | st.just("recipe") | st.floats(0, 100), st.floats(-1e6, 1e6), st.sampled_from(["median", "mosaic"]),
    orbit=st.sampled_from([None, "ASCENDING", "descending"]),
)  # fmt: skip
FETCHES = st.builds(FetchSpec, st.none() | SCALES, st.none() | st.floats(0, 100), st.none() | st.floats(-9, 9))
OPTIONS = st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | NAMES, max_size=3)
MODELS = st.builds(ExportModelRequest, NAMES, st.none() | SENSORS, st.none() | FETCHES, st.none() | NAMES, OPTIONS)
OUTPUTS = st.builds(OutputSpec, st.sampled_from(["pooled", "grid"]), st.sampled_from(["mean", "max"]))
PREPS = st.builds(InputPrepSpec, st.sampled_from(["tile", "resize", "auto"]), st.none() | st.integers(1, 999))
CONFIGS = st.builds(
    ExportConfig, shard_size=st.integers(1, 9999), batch_size=st.none() | st.integers(1, 99),
    input_prep=st.none() | PREPS | st.sampled_from(["tile", "auto"]), buffer_m=st.none() | st.floats(1, 1e6),
    context=st.sampled_from([None, "native", "none"]), min_valid_fraction=st.floats(0, 1),
)  # fmt: skip
WINDOWS = st.tuples(st.dates(), st.dates()).filter(lambda pair: pair[0] < pair[1])
VALUES: dict[type, st.SearchStrategy[Any]] = {
    PointBuffer: st.builds(PointBuffer, st.floats(-180, 180), st.floats(-90, 90), st.none() | st.floats(0.1, 1e6)),
    BBox: st.builds(BBox, st.floats(-180, 0), st.floats(-90, 0), st.floats(1, 180), st.floats(1, 90)),
    TemporalSpec: WINDOWS.map(lambda pair: TemporalSpec.range(*pair)) | st.integers(1, 9998).map(TemporalSpec.year),
    Window: WINDOWS.map(lambda pair: Window(*pair)),
    SensorSpec: SENSORS,
    FetchSpec: FETCHES,
    OutputSpec: OUTPUTS,
    InputPrepSpec: PREPS,
    ExportModelRequest: MODELS,
    RunRequest: st.builds(
        RunRequest, st.lists(MODELS, min_size=1, max_size=3).map(tuple), OUTPUTS, CONFIGS,
        st.sampled_from(["cpu", "auto"]),
    ),
    FetchRecipe: st.builds(
        FetchRecipe, NAMES, SCALES, frames=st.builds(FramePolicy, st.sampled_from(["single", "auto"])),
        clouds=st.builds(CloudPolicy, scene_pct=st.none() | st.floats(0, 100)),
    ),
}  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which one part, at any depth, is something else, or gone."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != key}
        return rest if draw(st.integers(0, 5)) == 0 else rest | {key: draw(spoiled(value[key]))}
    return draw(ANYTHING)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(st.data())
def test_value_when_written_and_read_then_equal_with_the_same_digest(kind: type, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    text = canonical(value)
    back = from_json(kind, json.loads(text))
    assert back == value
    assert canonical(back) == text
    assert digest(back) == digest(value)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(st.data())
def test_value_when_its_json_is_spoiled_then_read_or_a_named_error_and_nothing_else(
    kind: type, data: st.DataObject
) -> None:
    plain = to_json(data.draw(VALUES[kind]))
    try:
        from_json(kind, data.draw(spoiled(plain)))
    except RSEmbedError as exc:
        said = str(exc)
    else:
        return
    assert len(said) > 10


@settings(max_examples=25)
@given(CONFIGS)
def test_plan_when_described_then_json_that_reads_back_with_the_same_fingerprint(config: ExportConfig) -> None:
    request = RunRequest((ExportModelRequest("null"),), config=replace(config, context="native"), device="cpu")
    described = plan_run(request, NullProvider(), Settings()).describe()
    back = json.loads(canonical(described))
    assert back == described
    assert fingerprint(back, "rows") == fingerprint(described, "rows")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"lon": "2", "lat": 42}, "lon must be a finite number, got '2'"),
        ({"lon": 2}, "PointBuffer lacks 'lat'"),
        ({"lon": 2, "lat": 42, "alt": 1}, "PointBuffer has no field 'alt'"),
        ({"lon": 10**400, "lat": 42}, "lon must be a finite number"),
        ({"lon": 200, "lat": 42}, "PointBuffer: longitude must lie in"),
        ([2, 42], "must be an object"),
    ],
)
def test_place_when_its_json_is_wrong_then_the_field_is_named(value: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        from_json(PointBuffer, value)
