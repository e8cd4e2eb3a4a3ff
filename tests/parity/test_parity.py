"""Every model against the numbers of the reference system, from raw pixels to vector and grid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import Case, WeightsFolder, all_cases
from seeded import sample_indices
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rsembed.core.specs import OutputSpec
from rsembed.embedders.nets.transformer import Blocks
from rsembed.embedders.prepared import Prepared
from rsembed.tools.tiling import whole_image

ABSOLUTE = {
    **dict.fromkeys(("prithvi", "terramind", "terrafm", "clay"), 5e-5),
    **dict.fromkeys(("galileo", "anysat", "agrifm", "olmoearth", "fomo", "satvision"), 2e-5),
    "thor": 1e-4,
    "mosaiks": 1e-5,
}
INSIDE = ("tokens_in", "alibi")
"""Recorded behind the first layers, to find where a difference starts; no input that is prepared."""
ELSEWHERE = ("s_t_mask",)
"""Recorded, but no input here: which sensors the reference leaves out, always the same."""
RELATIVE = ("remoteclip", "satmae", "satmaepp", "scalemae", "dofa", "wildsat")


@dataclass(frozen=True)
class Outcome:
    pooled: np.ndarray
    pooled_max: np.ndarray | None
    grid: np.ndarray
    prepared: Prepared
    seen: dict[str, np.ndarray]
    """What went into the network's blocks, by the names in INSIDE."""


@contextmanager
def blocks_watched() -> Iterator[dict[str, np.ndarray]]:
    """The inputs of the first stack of blocks that runs meanwhile, as arrays."""
    seen: dict[str, np.ndarray] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Blocks) and not seen:
            seen.update((name, given.numpy().copy()) for name, given in zip(INSIDE, inputs))

    hook = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeightsFolder]:
    folder = WeightsFolder(tmp_path_factory.mktemp("parity"))
    yield folder
    folder.clear()


@pytest.fixture(scope="module", params=all_cases(), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def outcome(case: Case, weights: WeightsFolder) -> Outcome:
    answers: dict[str, np.ndarray] = {}
    outputs = {"pooled": OutputSpec.pooled(), "grid": OutputSpec.grid()}
    if "pooled_max" in case.expected and case.model.card.pooling == "tokens":
        outputs["pooled_max"] = OutputSpec.pooled("max")
    for name, output in outputs.items():
        embedder = case.model(case.config(output))
        embedder.resolve(weights.hold(case))
        embedder.load("cpu")
        patch = case.patch(embedder)
        lon, lat = case.facts["spatial"]["lon"], case.facts["spatial"]["lat"]
        [prepared] = embedder.prepare_patch(
            patch, whole_image(*patch.values_tchw.shape[-2:]), lon=lon, lat=lat, window=case.window
        )
        arrays = {name: array[None] for name, array in prepared.arrays.items()}
        with blocks_watched() as seen:
            answers[name] = embedder.embed_batch(arrays, np.array([prepared.roi], np.float32))[0]
    return Outcome(answers["pooled"], answers.get("pooled_max"), answers["grid"], prepared, seen)


def as_recorded(model: str, pixels: np.ndarray) -> np.ndarray:
    """A network input in the reference's layout; NaN in channels that are no input here."""
    if model not in ("galileo", "olmoearth"):
        return pixels
    hwtc = pixels.transpose(2, 3, 0, 1)
    if model == "olmoearth":
        return hwtc
    every_sensor = np.full((*hwtc.shape[:-1], 13), np.nan, np.float32)
    every_sensor[..., 2:12] = hwtc
    return every_sensor


def check(case: Case, what: str, got: np.ndarray, expected: np.ndarray) -> None:
    model = case.facts["model"]
    limit = ABSOLUTE.get(model, 1e-5)
    if model.startswith(RELATIVE):
        limit = 1e-5 + 2e-6 * float(np.abs(expected).max())
    assert got.shape == expected.shape
    error = float(np.abs(got - expected).max())
    if os.environ.get("RSEMBED_PARITY_REPORT"):
        print(f"\n{case.name} {what}: {error:.2e} of {limit:.2e}")
    assert error <= limit, f"{what} is off by {error:.2e}, allowed {limit:.2e}"


def test_parity_when_pixels_are_prepared_then_network_input_agrees(case: Case, outcome: Outcome) -> None:
    if "model_input_sample" not in case.expected:
        pytest.skip("the case records no network input")
    expected = case.expected["model_input_sample"]
    given = as_recorded(case.facts["model"], outcome.prepared.arrays["pixels"])
    got = given.ravel()[sample_indices(given.size)]
    if "model_input_shape" in case.expected:
        assert given.size == np.prod(case.expected["model_input_shape"])
    limit, known = 1e-6 * max(1.0, float(np.abs(expected).max())), ~np.isnan(got)
    np.testing.assert_allclose(got[known], expected[known], rtol=0, atol=limit)


def test_parity_when_place_and_dates_are_given_then_side_inputs_agree(case: Case, outcome: Outcome) -> None:
    recorded = {name.removeprefix("side_"): value for name, value in case.expected.items() if name.startswith("side_")}
    sides = {name: value for name, value in recorded.items() if name not in INSIDE + ELSEWHERE}
    if not sides:
        pytest.skip("the case records no side inputs")
    for name, expected in sides.items():
        given = outcome.prepared.arrays[name]
        # The reference has a batch axis in most of them, not in all.
        np.testing.assert_allclose(given.reshape(expected.shape), expected, rtol=0, atol=1e-6)


def test_parity_when_tokens_enter_the_blocks_then_they_agree(case: Case, outcome: Outcome) -> None:
    recorded = [name for name in INSIDE if f"side_{name}" in case.expected]
    if not recorded:
        pytest.skip("the case records nothing inside the network")
    for name in recorded:
        got = outcome.seen[name]
        assert list(got.shape) == case.facts["side_inputs"][f"side_{name}"]
        check(case, name, got.ravel()[sample_indices(got.size)], case.expected[f"side_{name}"])


def test_parity_when_pooled_then_vector_agrees(case: Case, outcome: Outcome) -> None:
    check(case, "pooled", outcome.pooled, case.expected["pooled"])


def test_parity_when_pooled_by_maximum_then_vector_agrees(case: Case, outcome: Outcome) -> None:
    if outcome.pooled_max is None:
        pytest.skip("the case records no maximum")
    check(case, "pooled_max", outcome.pooled_max, case.expected["pooled_max"])


def test_parity_when_grid_then_cells_agree(case: Case, outcome: Outcome) -> None:
    assert outcome.grid.shape == tuple(case.expected["grid_shape"])
    got = outcome.grid.ravel()[sample_indices(outcome.grid.size)]
    check(case, "grid", got, case.expected["grid_sample"])


def test_parity_when_card_is_read_then_dimension_is_the_vectors(case: Case, outcome: Outcome) -> None:
    embedder = case.model(case.config(OutputSpec()))
    assert outcome.pooled.shape == (embedder.dim,)
