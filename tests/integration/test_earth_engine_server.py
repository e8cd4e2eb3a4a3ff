"""The local Earth Engine as a service: collections, limits, refusals, faults and steering, through the real client."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from rsembed.testing.earth_engine import Behaviour, Fault, Latency, LocalEarthEngine, SyntheticBand, SyntheticImage
from rsembed.testing.earth_engine.__main__ import main, steps_of
from rsembed.testing.scene import write_synthetic_catalog

ee = pytest.importorskip("ee", reason="the official client is not installed: pip install 'rsembed[gee]'")

from tests.earth_engine_session import client_of, grid_of, only, pixels_of  # noqa: E402 - it imports ee

UTM = "EPSG:32631"
LEFT, TOP = 500_000.0, 4_700_000.0
GRID = grid_of(size=(4, 4), origin=(LEFT, TOP), crs=UTM)
S2 = "COPERNICUS/S2_SR_HARMONIZED"


def image(index: str, time: str, value: int, **properties: object) -> SyntheticImage:
    values = np.full((4, 4), value, np.uint16)
    return SyntheticImage(index, time, {"B4": SyntheticBand(values, UTM, (10, 0, LEFT, 0, -10, TOP))}, properties)


IMAGES = {
    "TEST/A": [
        image("a0", "2022-05-01T00:00:00", 10, CLOUD=30, PASS="ASCENDING", MODES=["VV", "VH"], ORBIT=7),
        image("a1", "2022-05-01T00:00:05", 11, CLOUD=20, PASS="DESCENDING", MODES=["HH"], ORBIT=7),
        image("a2", "2022-06-01T00:00:00", 12, PASS="ASCENDING", MODES=["VV"], ORBIT=8),
    ],
    "TEST/B": [image("b0", "2022-05-15T00:00:00", 20, CLOUD=1)],
    # 40 m across the antimeridian, which lies at x = 166 021.4 m on the equator of zone 1.
    "TEST/DATELINE": [
        SyntheticImage(
            "d0",
            "2022-05-15T00:00:00",
            {"B4": SyntheticBand(np.ones((4, 4)), "EPSG:32601", (10, 0, 166_000, 0, -10, 20))},
        )
    ],
}


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = write_synthetic_catalog(tmp_path_factory.mktemp("scenes"), size_px=64)
    return catalog.parent / "sentinel-2-c1-l2a"


@pytest.fixture(scope="module")
def shared(scene_folder: Path) -> Iterator[LocalEarthEngine]:
    with LocalEarthEngine(scene_folder.parent, images=IMAGES) as server, client_of(server):
        yield server


@pytest.fixture
def server(shared: LocalEarthEngine) -> Iterator[LocalEarthEngine]:
    shared.clear()
    yield shared
    shared.behaviour = Behaviour()
    shared.clear()


def names(collection: Any) -> list[str]:
    return list(collection.aggregate_array("system:index").getInfo())


def status_of(error: BaseException) -> int | None:
    return getattr(getattr(error.__context__, "resp", None), "status", None)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def compute(value: int = 1) -> Any:
    return ee.data.computePixels({"expression": ee.Image(value), "fileFormat": "NUMPY_NDARRAY", "grid": GRID})


# Collections and filters


def test_filter_date_when_range_ends_at_an_image_then_end_is_excluded(server: LocalEarthEngine) -> None:
    assert names(ee.ImageCollection("TEST/A").filterDate("2022-05-01", "2022-06-01")) == ["a0", "a1"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ee.Filter.lt("CLOUD", 30), ["a1"]),
        # The client sends lte as "not gt": what has no such property passes.
        (lambda: ee.Filter.lte("CLOUD", 30), ["a0", "a1", "a2"]),
        (lambda: ee.Filter.eq("PASS", "ASCENDING"), ["a0", "a2"]),
        (lambda: ee.Filter.listContains("MODES", "VV"), ["a0", "a2"]),
        (lambda: ee.Filter.inList("ORBIT", [8, 9]), ["a2"]),
        (lambda: ee.Filter.Or(ee.Filter.gt("CLOUD", 25), ee.Filter.eq("ORBIT", 8)), ["a0", "a2"]),
        (lambda: ee.Filter.And(ee.Filter.gt("CLOUD", 20), ee.Filter.eq("PASS", "ASCENDING")), ["a0"]),
        (lambda: ee.Filter.lt("CLOUD", 30).Not(), ["a0", "a2"]),
        (lambda: ee.Filter.notNull(["CLOUD"]), ["a0", "a1"]),
        (lambda: ee.Filter.bounds(ee.Geometry.Point([LEFT + 20, TOP - 20], UTM)), ["a0", "a1", "a2"]),
        (lambda: ee.Filter.bounds(ee.Geometry.Point([LEFT + 60, TOP - 20], UTM)), []),
    ],
)
def test_filter_when_applied_then_images_that_pass_in_order(
    server: LocalEarthEngine, make: Any, expected: list[str]
) -> None:
    assert names(ee.ImageCollection("TEST/A").filter(make())) == expected


@pytest.mark.parametrize(("lon", "there"), [(179.9999, True), (-179.9999, True), (179.999, False), (-179.999, False)])
def test_filter_bounds_when_an_image_crosses_the_antimeridian_then_found_from_both_sides(
    server: LocalEarthEngine, lon: float, there: bool
) -> None:
    found = ee.ImageCollection("TEST/DATELINE").filterBounds(ee.Geometry.Point([lon, 0.0001]))
    assert names(found) == (["d0"] if there else [])


def test_request_when_it_is_no_expression_then_400(server: LocalEarthEngine) -> None:
    request = urllib.request.Request(f"{server.url}/v1/projects/test/value:compute", data=b'{"expresion": 1}')
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        urllib.request.urlopen(request)
    caught.value.close()


def test_filter_when_not_equal_on_a_missing_property_then_refused(server: LocalEarthEngine) -> None:
    different = ee.ApiFunction.apply_("Filter.notEquals", {"leftField": "CLOUD", "rightValue": 5})
    with pytest.raises(ee.EEException, match="on a missing property"):
        names(ee.ImageCollection("TEST/A").filter(different))


def test_collections_when_merged_then_first_before_second_with_prefixes(server: LocalEarthEngine) -> None:
    merged = ee.ImageCollection("TEST/B").merge(ee.ImageCollection("TEST/A"))
    assert names(merged) == ["1_b0", "2_a0", "2_a1", "2_a2"]
    assert only(merged.mosaic(), GRID)[0, 0] == 12


def test_collection_when_distinct_and_limited_then_first_of_each_stays(server: LocalEarthEngine) -> None:
    collection = ee.ImageCollection("TEST/A")
    assert names(collection.distinct("ORBIT")) == ["a0", "a2"]
    assert names(collection.limit(2, "system:time_start", False)) == ["a2", "a1"]
    assert collection.aggregate_count_distinct("ORBIT").getInfo() == 2


def test_join_when_all_are_saved_then_matches_in_order_as_a_property(server: LocalEarthEngine) -> None:
    collection = ee.ImageCollection("TEST/A")
    joined = ee.Join.saveAll("matches", "system:time_start", False).apply(
        collection.distinct("ORBIT"), collection, ee.Filter.equals(leftField="ORBIT", rightField="ORBIT")
    )
    found = joined.map(
        lambda one: ee.ImageCollection.fromImages(one.get("matches")).mosaic().copyProperties(one, ["ORBIT"])
    )
    assert found.aggregate_array("ORBIT").getInfo() == [7, 8]
    first = ee.Image(ee.ImageCollection(found).filter(ee.Filter.eq("ORBIT", 7)).first())
    assert only(first, GRID)[0, 0] == 10, "descending in time: the earliest is the last, on top"


def test_bands_when_added_twice_then_numbered(server: LocalEarthEngine) -> None:
    one = ee.Image("TEST/A/a0")
    found = one.addBands(one).addBands(one.rename("X")).select("B4.*|X")
    assert found.bandNames().getInfo() == ["B4", "B4_1", "X"]
    assert ee.ImageCollection("TEST/A").toBands().bandNames().getInfo() == ["a0_B4", "a1_B4", "a2_B4"]


def test_if_when_condition_is_a_count_then_zero_is_false(server: LocalEarthEngine) -> None:
    none = ee.ImageCollection("TEST/A").filterDate("2030-01-01", "2031-01-01")
    chosen = ee.ImageCollection(ee.Algorithms.If(none.size(), none, ee.ImageCollection("TEST/B")))
    assert names(chosen) == ["b0"]


def test_dates_when_computed_then_as_the_calendar_has_them(server: LocalEarthEngine) -> None:
    date = ee.Date("2022-01-31T12:00:00")
    assert date.advance(36, "hour").format("YYYY-MM-dd'T'HH:mm").getInfo() == "2022-02-02T00:00"
    assert date.difference(ee.Date("2022-01-30"), "day").getInfo() == 1.5
    assert ee.Number(3.5).format("%07.3f").getInfo() == "003.500"


def test_catalogue_when_a_scene_carries_an_offset_then_harmonised(server: LocalEarthEngine, scene_folder: Path) -> None:
    newest = ee.ImageCollection(S2).sort("system:time_start", False).first()
    about = newest.getInfo()
    assert about["properties"]["PROCESSING_BASELINE"] == "04.00"
    grid = grid_of(size=(64, 64), origin=(480_000, 4_700_000), crs=UTM)
    found = only(newest.select("B4"), grid)
    with rasterio.open(scene_folder / about["properties"]["system:index"] / "B04.tif") as source:
        stored = source.read(1).astype(int)
    np.testing.assert_array_equal(found, np.maximum(stored - 1000, 0))


# Limits and refusals


def test_request_when_larger_than_48_mb_with_mask_bytes_then_error_says_so(server: LocalEarthEngine) -> None:
    with pytest.raises(ee.EEException, match=r"Total request size \(50339840 bytes\) must be less than or equal"):
        pixels_of(ee.Image(1).toByte(), grid_of(size=(6145, 4096), origin=(LEFT, TOP), crs=UTM))


def test_request_when_wider_than_32768_then_error_says_so(server: LocalEarthEngine) -> None:
    with pytest.raises(ee.EEException, match=r"\(32769x1\) must be less than or equal to 32768"):
        pixels_of(ee.Image(1), grid_of(size=(1, 32_769), origin=(LEFT, TOP), crs=UTM))


def test_request_when_of_more_than_1024_bands_then_refused(server: LocalEarthEngine) -> None:
    with pytest.raises(ee.EEException, match="1025 bands"):
        pixels_of(ee.Image.constant([1] * 1025), GRID)
    # As plain bytes: numpy.load, which the client calls for arrays, refuses headers of more than some 400 bands.
    body = {"expression": ee.Image.constant([1] * 1024), "fileFormat": "NPY", "grid": GRID}
    found = np.load(io.BytesIO(ee.data.computePixels(body)), max_header_size=100_000)
    assert len(found.dtype) == 1024


def test_request_when_json_is_larger_than_10_mb_then_refused(server: LocalEarthEngine) -> None:
    with pytest.raises(ee.EEException, match="payload size exceeds the limit: 10485760"):
        pixels_of(ee.Image(1).set("text", "x" * 10_485_760), GRID)


def test_image_when_hundreds_of_bands_are_added_one_by_one_then_answered(server: LocalEarthEngine) -> None:
    many = ee.Image.cat([ee.Image("TEST/A/a0").rename(f"b{n}") for n in range(400)])
    assert pixels_of(many, GRID)["b399"][0, 0] == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ee.Image("TEST/A/a0").focalMax(1), "focalMax: this function"),
        (lambda: ee.Image("TEST/A/a0").unmask(0), "sameFootprint=True"),
        (lambda: ee.Image("TEST/A/a0").reduceResolution("max"), "only the mean"),
        (lambda: ee.Image("TEST/A/none"), "not found"),
        (lambda: ee.ImageCollection("NO/SUCH").mosaic(), "ImageCollection asset 'NO/SUCH' not found"),
        (lambda: ee.Image("TEST/A/a0").select("B9"), r"Band pattern 'B9' did not match any bands\. Available"),
        (lambda: ee.Image("TEST/A/a0").reproject(UTM, None, 30), "the argument scale=30"),
    ],
)
def test_expression_when_it_cannot_be_answered_then_error_400_says_why(
    server: LocalEarthEngine, make: Any, message: str
) -> None:
    with pytest.raises(ee.EEException, match=message) as caught:
        pixels_of(make(), GRID)
    assert status_of(caught.value) == 400


# Faults


@pytest.mark.parametrize(
    ("status", "message"), [(429, "Too Many Requests"), (503, "The service is unavailable"), (500, "Internal error")]
)
def test_fault_when_an_error_is_scripted_then_played_as_often_as_it_says(
    server: LocalEarthEngine, status: int, message: str
) -> None:
    server.script(Fault(status=status, message=message, times=2))
    for _ in range(2):
        with pytest.raises(ee.EEException, match=message) as caught:
            compute()
        assert status_of(caught.value) == status
    assert compute().shape == (4, 4)
    assert [record.status for record in server.log] == [status, status, 200]


def test_fault_when_it_comes_after_some_then_they_pass_first(server: LocalEarthEngine) -> None:
    server.script(Fault(after=1))
    compute()
    with pytest.raises(ee.EEException):
        compute()


def test_fault_when_a_proxy_answers_then_client_has_no_json(server: LocalEarthEngine) -> None:
    server.script(Fault("page", status=502))
    with pytest.raises(ee.EEException) as caught:
        compute()
    assert status_of(caught.value) == 502


def test_fault_when_connection_is_reset_then_connection_error(server: LocalEarthEngine) -> None:
    server.script(Fault("reset", times=1))
    with pytest.raises((ConnectionError, OSError)):
        compute()
    _wait_for(lambda: bool(server.log))
    assert server.log[-1].status == 0


def test_fault_when_server_is_silent_then_nothing_until_the_connection_ends(server: LocalEarthEngine) -> None:
    server.script(Fault("silent", delay_s=0.05))
    with pytest.raises((ConnectionError, OSError)):
        compute()
    _wait_for(lambda: bool(server.log))
    assert (server.log[-1].fault, server.log[-1].status) == ("silent", 0)


def test_fault_when_answer_is_truncated_then_never_an_array(server: LocalEarthEngine) -> None:
    server.script(Fault("truncated"))
    with pytest.raises(Exception, match=r"(?i)incomplete|broken|bytes"):
        compute()


def test_fault_when_answer_is_garbage_then_value_error(server: LocalEarthEngine) -> None:
    server.script(Fault("garbage"))
    with pytest.raises((ValueError, SyntaxError)):
        compute()


def _post(server: LocalEarthEngine) -> int:
    """Ask for pixels without the client, whose one session belongs to another server; the status, 0 without one."""
    expression = json.loads(ee.Image(1).serialize())
    body = json.dumps({"expression": expression, "fileFormat": "NPY", "grid": GRID}).encode()
    try:
        with urllib.request.urlopen(f"{server.url}/v1/projects/test/image:computePixels", data=body) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code
    except OSError:
        return 0


@pytest.mark.usefixtures("shared")
def test_quota_when_concurrency_is_one_then_second_request_is_rejected() -> None:
    slow = Behaviour(concurrency=((0, 1),), latency=Latency(3600, sigma=0.0))
    with ThreadPoolExecutor(1) as pool, LocalEarthEngine(behaviour=slow) as server:
        first = pool.submit(_post, server)
        _wait_for(lambda: server.counters.running == 1)
        assert _post(server) == 429
        assert server.counters.peak_running == 1
        server.close()
        first.result(60)  # whatever it got: nobody hangs on a closed server


def test_quota_when_it_changes_over_time_then_last_step_reached_holds() -> None:
    behaviour = Behaviour(concurrency=steps_of("40,30:10,60:40"))
    assert [behaviour.limit_at(age) for age in (0, 29, 30, 59, 60, 1e6)] == [40, 40, 10, 10, 40, 40]
    assert Behaviour().limit_at(5) is None


def test_quota_when_rate_is_exceeded_then_429(server: LocalEarthEngine) -> None:
    server.behave(requests_per_s=0)
    with pytest.raises(ee.EEException, match="rate or concurrency"):
        compute()


def test_latency_when_set_then_each_scene_adds_to_it(server: LocalEarthEngine) -> None:
    server.behave(latency=Latency(0.05, 0.05, sigma=0.0))
    only(ee.ImageCollection("TEST/A").mosaic(), GRID)
    record = server.log[-1]
    assert record.scenes == 3
    assert record.seconds >= 0.2


@pytest.mark.parametrize(
    ("limit", "message"),
    [("memory_limit_pixels", r"User memory limit exceeded\."), ("time_limit_pixels", r"Computation timed out\.")],
)
def test_limit_when_grid_has_more_pixels_then_too_complex(server: LocalEarthEngine, limit: str, message: str) -> None:
    server.behave(**{limit: 15})
    with pytest.raises(ee.EEException, match=message) as caught:
        compute()
    assert status_of(caught.value) == 400
    server.behave(**{limit: 16})
    assert compute().shape == (4, 4)


def test_quota_header_when_set_then_client_warns(server: LocalEarthEngine) -> None:
    server.behave(quota_status="parallelism_restricted=true")
    with pytest.warns(UserWarning, match="noncommercial compute quota"):
        compute()


def test_token_when_expired_then_401(server: LocalEarthEngine) -> None:
    server.behave(token="")
    with pytest.raises(ee.EEException, match="invalid authentication credentials") as caught:
        compute()
    assert status_of(caught.value) == 401


# Log and steering


def test_log_when_pixels_were_asked_for_then_says_what(server: LocalEarthEngine) -> None:
    with ee.data.workloadTagContext("run-7"):
        pixels_of(ee.Image("TEST/A/a0").addBands(ee.Image(1)), GRID)
    record = server.log[-1]
    seen = (record.kind, record.bands, record.height, record.width, record.crs, record.workload_tag, record.scenes)
    assert seen == ("image:computePixels", 2, 4, 4, UTM, "run-7", 1)
    assert server.counters.pixel_requests == 1


def test_threads_when_many_ask_then_each_gets_its_own_answer(server: LocalEarthEngine) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: int(only(ee.Image(n).toUint16(), GRID)[0, 0]), range(40)))
    assert found == list(range(40))


def _steer(server: LocalEarthEngine, path: str, body: object | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{server.url}/local/{path}", data=data) as reply:
        return json.load(reply)


def test_steering_when_done_over_http_then_faults_behaviour_and_log(server: LocalEarthEngine) -> None:
    _steer(server, "faults", [{"status": 503, "message": "Sorry"}])
    with pytest.raises(ee.EEException, match="Sorry"):
        compute()
    _steer(server, "behaviour", {"concurrency": [[0, 0]], "latency": {"base_s": 0}})
    with pytest.raises(ee.EEException, match="Too Many Requests"):
        compute()
    assert _steer(server, "counters")["rejected"] == 1
    assert [record["status"] for record in _steer(server, "log")] == [503, 429]
    _steer(server, "clear", {})
    assert _steer(server, "log") == []


def test_steering_when_field_is_unknown_then_400(server: LocalEarthEngine) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        _steer(server, "faults", {"colour": "red"})


def test_command_when_asked_for_help_then_it_teaches() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    assert "ee.Initialize(" in shown
    assert "/local/faults" in shown


def test_command_when_latency_is_no_number_then_usage_error() -> None:
    done = CliRunner().invoke(main, ["--latency", "slow"])
    assert done.exit_code == 2
    assert "--latency" in done.output
