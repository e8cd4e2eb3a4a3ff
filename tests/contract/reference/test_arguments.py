"""Arguments of the wrong kind: every public function refuses them by name, before any work, without a traceback."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rsembed
from rsembed import (
    ExportConfig,
    ExportModelRequest,
    ExportTarget,
    FetchSpec,
    InputPrepSpec,
    OutputSpec,
    RSEmbedError,
    SensorSpec,
    TemporalSpec,
)
from rsembed.testing.null import COLLECTION, NullProvider
from tests.builders import CountingProvider
from tests.contract.reference.calls import PLACE, YEAR

SENSOR = SensorSpec(COLLECTION, ("B1",))
TABLE = pd.DataFrame({"lon": [2.0, 2.01], "lat": [42.0, 42.0]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sensor": "S2"}, "sensor must be a SensorSpec"),
        ({"fetch": SENSOR}, "fetch must be a FetchSpec"),
        ({"sensor": SENSOR, "fetch": FetchSpec()}, "sensor or fetch, not both"),
        ({"temporal": "2022", "year": None}, "temporal must be TemporalSpec"),
        ({"temporal": YEAR}, "year or temporal, not both"),
        ({"year": "2022"}, "whole number"),
        ({"backend": "mars"}, "no backend 'mars'"),
        ({"backend": NullProvider}, "backend must be the name"),
        ({"backend": "local"}, "reads published embeddings"),
        ({"device": "gpu"}, "device must be auto"),
        ({"pooling": "median"}, "pooling must be one of"),
        ({"input_prep": "crop"}, "mode must be one of"),
        ({"buffer_m": "a"}, "buffer_m must be a positive number"),
        ({"around_days": "5", "year": None}, "whole number"),
        ({"poisson": 1}, "no option 'poisson'.*accepted: poison"),
        ({"out": 5}, "out must be a folder"),
        ({"modality": "s9"}, "modality must be one of"),
    ],
)
def test_embed_when_an_argument_is_wrong_then_refused_by_name(changes: dict[str, Any], said: str) -> None:
    given = {"year": 2022, "backend": NullProvider(), "device": "cpu", "show_progress": False} | changes
    with pytest.raises(RSEmbedError, match=said):
        rsembed.embed(TABLE, "null", **given)


@pytest.mark.parametrize("table", ["a.csv", 5, None, {"lon": [1]}, [(1, 2, 3)], [("a", "b")], pd.DataFrame({"a": [1]})])
def test_embed_when_the_table_is_none_then_refused(table: Any) -> None:
    with pytest.raises(RSEmbedError):
        rsembed.embed(table, "null", year=2022, backend=NullProvider(), device="cpu", show_progress=False)


@pytest.mark.parametrize("prep", [None, "tile", "resize", InputPrepSpec.resize(), InputPrepSpec.auto(max_tiles=3)])
def test_embed_when_input_prep_is_a_name_or_a_spec_then_accepted(prep: Any) -> None:
    given = {"year": 2022, "device": "cpu", "show_progress": False, "input_prep": prep}
    found = rsembed.embed(TABLE, " NULL", backend=NullProvider(), **given)
    alone = rsembed.get_embedding(
        "null", spatial=rsembed.PointBuffer(2.0, 42.0), temporal=YEAR, backend=NullProvider(), device="cpu"
    )
    np.testing.assert_allclose(found["embedding"][0], alone.data, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spatials": "nofile.csv"}, "no file or folder"),
        ({"spatials": 5}, "places must be a file"),
        ({"spatials": []}, "non-empty"),
        ({"spatials": [(1, 2, 3)]}, "place 0 must be a pair"),
        ({"spatials": [PLACE, "x"]}, "place 1 must be"),
        ({"temporal": 5}, "temporal must be TemporalSpec"),
        ({"temporal": "2022"}, "temporal must be TemporalSpec"),
        ({"temporal": [YEAR, dt.date(2022, 1, 1)]}, "temporal must be TemporalSpec"),
        ({"temporal": [YEAR, YEAR]}, "windows must differ"),
        ({"models": None}, "models must be a non-empty list"),
        ({"models": "null"}, "models must be a non-empty list"),
        ({"models": [5]}, "a model must be a name"),
        ({"models": ["null@a/b"]}, "cannot name a folder"),
        ({"models": ["null", "null"]}, "stands for 2 models"),
        ({"models": ["null:poison"]}, "written name:option=value"),
        ({"around_days": "x"}, "whole number"),
        ({"around_days": True}, "whole number"),
        ({"id_column": "name"}, "no id column 'name'"),
        ({"config": None}, "config must be an ExportConfig"),
        ({"config": {}}, "config must be an ExportConfig"),
        ({"target": "out"}, "target must be ExportTarget"),
        ({"output": OutputSpec}, "output must be OutputSpec"),
        ({"input_prep": 5}, "input_prep must be"),
        ({"device": None}, "device must be auto"),
        ({"backend": "mars"}, "no backend 'mars'"),
    ],
)
def test_export_when_an_argument_is_wrong_then_refused_by_name_before_any_work(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    provider, out = CountingProvider(), tmp_path / "out"
    given = {
        "spatials": [PLACE], "temporal": YEAR, "models": ["null"], "target": ExportTarget.dataset(out),
        "backend": provider, "device": "cpu", "config": ExportConfig(show_progress=False),
    }  # fmt: skip
    with pytest.raises(RSEmbedError, match=said):
        rsembed.export_batch(**given | changes)
    assert provider.asked == []


@pytest.mark.parametrize(
    "changes", [{"model_config": 5}, {"model_config": [("poison", 1)]}, {"label": 5}, {"modality": 2}], ids=str
)
def test_request_when_a_part_is_of_the_wrong_kind_then_model_error_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises(rsembed.ModelError):
        ExportModelRequest("null", **changes)


def test_errors_when_raised_then_both_kinds_of_handler_catch_them() -> None:
    for kind in (rsembed.ModelError, rsembed.SpecError, ValueError):
        with pytest.raises(kind, match="device must be auto"):
            rsembed.Model("null", device="gpu")
    assert not issubclass(rsembed.ModelError, ValueError)
    assert TemporalSpec.year(2022) == YEAR
