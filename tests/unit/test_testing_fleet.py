"""The plug-in that the fleet's tests misbehave with."""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.errors import ProviderError, TransientProviderError, WeightsError
from rsembed.core.fetching import FetchRequest
from rsembed.core.settings import Settings
from rsembed.core.specs import Window
from rsembed.embedders.base import EmbedderConfig, View
from rsembed.testing.fleet import CrashingNull, SlowNull, WeighedNull, fate, null_backend
from rsembed.testing.null import NullEmbedder, request_seed
from tests.builders import grid, patch, request

MANY = [request(on=grid(x_min=480_000.0 + 160 * i, y_max=4_700_000.0 + 160 * (i % 7))) for i in range(400)]


def test_fate_when_rows_are_many_then_shares_come_out_and_are_always_the_same() -> None:
    fates = [fate(each) for each in MANY]
    assert 0.15 < np.mean([value < 0.2 for value in fates]) < 0.25
    assert fates == [fate(each) for each in MANY]


def test_backend_when_shares_are_asked_for_then_rows_fall_into_them() -> None:
    provider = null_backend(empty_share=0.1, low_share=0.2, permanent_share=0.1)

    def outcome(asked: FetchRequest) -> str:
        try:
            found = provider.fetch(asked)
        except ProviderError:
            return "failed"
        return "no_data" if found.is_empty else "low" if found.valid_fraction() < 0.5 else "ok"

    counts = Counter(map(outcome, MANY))
    assert counts["failed"] == sum(fate(each) >= 0.9 for each in MANY)
    assert counts["no_data"] == sum(fate(each) < 0.1 for each in MANY)
    assert counts["low"] == sum(0.1 <= fate(each) < 0.3 for each in MANY)
    assert counts == Counter(map(outcome, MANY))


def test_backend_when_the_heal_file_is_there_then_no_row_fails(tmp_path: Path) -> None:
    heal = tmp_path / "healed"
    provider = null_backend(permanent_share=1.0, heal_file=str(heal))
    with pytest.raises(ProviderError):
        provider.fetch(MANY[0])
    heal.touch()
    assert not provider.fetch(MANY[0]).is_empty


def test_backend_when_a_call_failed_by_chance_then_the_next_of_the_same_request_does_not() -> None:
    provider = null_backend(fault_share=1.0)
    for each in MANY[:20]:
        with pytest.raises(TransientProviderError):
            provider.fetch(each)
        provider.fetch(each)


def test_backend_when_only_shares_change_values_then_only_they_are_in_its_identity() -> None:
    assert null_backend(latency_s=1.0, fault_share=0.5, permanent_share=0.5).describe() == {"backend": "null"}
    assert null_backend(empty_share=0.5).describe() == {"backend": "null", "empty_share": 0.5}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that this process sent to itself."""
    sent: list[int] = []

    def kill(pid: int, number: int) -> None:
        assert pid == os.getpid()
        sent.append(number)
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    return sent


def test_backend_when_the_crash_seed_comes_then_the_process_dies(kills: list[int]) -> None:
    provider = null_backend(crash_seed=request_seed(MANY[1]))
    provider.fetch(MANY[0])
    with pytest.raises(Killed):
        provider.fetch(MANY[1])
    assert kills == [signal.SIGKILL]


def view(lon: float, lat: float) -> View:
    given = patch()
    window = Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1))
    return View(given.values_tchw, given.valid_tchw, (dt.date(2022, 7, 1),), lon, lat, 10.0, window)


def forward(model: NullEmbedder, *views: View) -> np.ndarray:
    rows = [model.prepare(each) for each in views]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return model.embed_batch(arrays, np.zeros((len(rows), 4), np.float32))


def test_crash_model_when_the_row_is_in_the_batch_then_the_process_dies(kills: list[int]) -> None:
    model = CrashingNull(EmbedderConfig(options={"lon": 2.5, "lat": 41.0}))
    forward(model, view(2.6, 41.0))
    with pytest.raises(Killed):
        forward(model, view(2.5, 41.0), view(2.6, 41.0))
    assert kills == [signal.SIGKILL]


def test_models_when_nothing_happens_then_their_vectors_are_those_of_null() -> None:
    plain = forward(NullEmbedder(), view(2.0, 41.0))
    for model in (CrashingNull(), SlowNull(EmbedderConfig(options={"latency_s": 0.0})), WeighedNull()):
        assert (forward(model, view(2.0, 41.0)) == plain).all()


def test_weights_model_when_its_file_is_gone_then_it_does_not_load(tmp_path: Path) -> None:
    model = WeighedNull()
    file = tmp_path / "test" / "null" / "null.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    model.resolve(Settings(weights_dir=tmp_path, cache_dir=tmp_path / "cache"))
    model.load("cpu")
    file.unlink()
    with pytest.raises(WeightsError):
        model.load("cpu")
