from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsembed.tools.quantization import HEADROOM, LARGEST, dequantize, fit_scales, measure, quantize

SAMPLES = arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.integers(1, 6)),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(SAMPLES)
def test_quantize_when_the_sample_itself_then_off_by_at_most_half_a_step(sample: np.ndarray) -> None:
    steps = fit_scales(sample)
    back = dequantize(quantize(sample.T, steps), steps).T
    assert (np.abs(back - sample) <= steps * 0.5001 + 1e-30).all()
    assert measure(sample, steps).clipped == 0.0


@given(SAMPLES, st.floats(1.5, 100.0))
def test_quantize_when_numbers_are_beyond_the_sample_then_they_are_cut_at_its_end(s: np.ndarray, times: float) -> None:
    steps = fit_scales(s)
    found = quantize((s * np.float32(times)).T, steps).T
    assert np.abs(found.astype(int)).max(initial=0) <= LARGEST
    beyond = np.abs(s * times) > (LARGEST + 1) * steps
    assert (np.abs(found[beyond].astype(int)) == LARGEST).all()
    assert (np.sign(found[beyond]) == np.sign(s[beyond])).all()


def test_quantize_when_halfway_then_to_the_even_one_and_the_step_has_headroom() -> None:
    steps = np.array([1.0], np.float32)
    assert quantize(np.array([[0.5, 1.5, -2.5, 126.6, 300.0, -300.0]], np.float32), steps).tolist() == [
        [0, 2, -2, 127, 127, -127]
    ]
    assert fit_scales(np.array([[127.0, 0.0]], np.float32)).tolist() == pytest.approx([HEADROOM, 1 / 127])


def test_quantize_when_a_map_then_each_dimension_has_its_step_at_every_cell() -> None:
    steps = np.array([1.0, 10.0], np.float32)
    cells = np.arange(12, dtype=np.float32).reshape(2, 2, 3) * 10
    assert dequantize(quantize(cells, steps), steps).tolist() == cells.tolist()


def test_measure_when_vectors_are_ordinary_then_they_hardly_change_and_cut_ones_are_counted() -> None:
    sample = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    found = measure(sample, fit_scales(sample))
    assert found.rms_relative < 0.01
    assert 0.9999 < found.cosine_min <= found.cosine_mean <= 1.0
    half = measure(sample, fit_scales(sample) / np.float32(4))
    assert 0.1 < half.clipped < 0.9
    assert half.cosine_min < found.cosine_min
