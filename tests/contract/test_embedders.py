"""What holds for every model of the catalogue: a sound card, and answers untouched by a batch's other rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# The seeded checkpoints of the parity suite stand in for published weights.
PARITY = Path(__file__).resolve().parents[1] / "parity"
sys.path.insert(0, str(PARITY))

from cases import Case, WeightsFolder, all_cases  # noqa: E402 - found through the line above
from seeded import seeded_image  # noqa: E402 - the same

from rsembed.core.card import RECIPES  # noqa: E402 - the same
from rsembed.core.fetching import Grid  # noqa: E402 - the same
from rsembed.core.patch import Frame, Patch  # noqa: E402 - the same
from rsembed.core.specs import OutputSpec  # noqa: E402 - the same
from rsembed.embedders.base import EmbedderBase  # noqa: E402 - the same
from rsembed.embedders.catalog import MODEL_SPECS  # noqa: E402 - the same
from rsembed.embedders.options import make_config, resolve_options  # noqa: E402 - the same
from rsembed.embedders.prepared import Prepared  # noqa: E402 - the same
from rsembed.embedders.registry import REGISTRY  # noqa: E402 - the same
from rsembed.tools.temporal import frame_bins  # noqa: E402 - the same
from rsembed.tools.tiling import whole_image  # noqa: E402 - the same

SLOTS = 3
CHEAP_PARAMETERS = 160_000_000
SMALLER = {
    "agrifm": ("agrifm", {"image_size": 32, "n_frames": 4}),
    "anysat": ("anysat", {"image_size": 8, "n_frames": 2}),
    "olmoearth": ("olmoearth_nano", {"variant": "nano", "image_size": 32}),
}
"""Models whose default takes too long -> another case of theirs, and the options that go with it."""


@pytest.fixture(params=sorted(MODEL_SPECS))
def model(request: pytest.FixtureRequest) -> type[EmbedderBase]:
    return REGISTRY.get(request.param)


def test_card_when_read_then_it_is_complete(model: type[EmbedderBase]) -> None:
    card = model.card
    assert REGISTRY.get(card.id) is model
    assert set(card.outputs) <= {"pooled", "grid"}
    assert set(card.steps) <= set(RECIPES)
    assert "authors" in card.steps
    assert all(card.steps.values())
    assert all(step.status in {"verified", "documented", "inferred"} for steps in card.steps.values() for step in steps)
    assert all(length > 0 for length in card.dims.values())
    assert not card.weights or set(card.weights) == set(card.dims)
    for contract in card.inputs.values():
        assert contract.bands
        assert contract.image_size > 0


def test_card_when_options_have_defaults_then_they_are_accepted(model: type[EmbedderBase]) -> None:
    defaults = {option.name: option.default for option in model.card.options}
    assert resolve_options(model.card, defaults) == defaults
    for option in model.card.options:
        assert set(option.aliases.values()) <= set(option.choices)


def test_card_when_a_variant_is_chosen_then_it_has_a_dimension(model: type[EmbedderBase]) -> None:
    name = model.card.variant_option
    variants = [choice for option in model.card.options if option.name == name for choice in option.choices]
    for variant in variants:
        assert model(make_config(model.card, options={name: variant})).dim == model.card.dims[str(variant)]
    assert variants or model(make_config(model.card)).dim > 0


def default_case(name: str) -> Case | None:
    """The parity case with the model's name, default options and variant; see SMALLER."""
    wanted = SMALLER.get(name, (name, {}))[0]
    return next((case for case in all_cases() if case.name == wanted), None)


def parameters(case: Case) -> int:
    path = case.folder / "weights.json"
    if not path.exists():
        return 0
    tensors = json.loads(path.read_text())["tensors"].values()
    return sum(int(np.prod(tensor["shape"], dtype=np.int64)) for tensor in tensors)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeightsFolder]:
    folder = WeightsFolder(tmp_path_factory.mktemp("contract"))
    yield folder
    folder.clear()


def prepared_row(embedder: EmbedderBase, case: Case, seed: int) -> Prepared:
    """An input with clouds in it: no pixel of the first corner is valid. Small where any size will do, else native."""
    contract = embedder.contract
    bins = frame_bins(case.window, contract.frames)
    side = min(contract.image_size, 96) if contract.any_size else contract.image_size
    values = seeded_image((len(bins), len(contract.bands), side, side), seed, 0, 4000)
    valid = np.ones(values.shape, bool)
    valid[..., : side // 4, : side // 5] = False
    frames = tuple(Frame(window, 1, window.midpoint) for window in bins)
    patch = Patch(values, valid, contract.bands, Grid(32632, 0.0, 0.0, contract.scale_m, side, side), frames)
    [prepared] = embedder.prepare_patch(patch, whole_image(side, side), lon=8.5, lat=47.4, window=case.window)
    return prepared


def batch(rows: dict[int, Prepared], example: Prepared) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The given slots filled, all others zero."""
    arrays = {name: np.zeros((SLOTS, *array.shape), array.dtype) for name, array in example.arrays.items()}
    roi = np.zeros((SLOTS, 4), np.float32)
    for slot, row in rows.items():
        roi[slot] = (0.1, 0.2, 0.9, 0.7)
        for name, array in row.arrays.items():
            arrays[name][slot] = array
    return arrays, roi


@pytest.mark.parametrize("mode", ["pooled", "grid"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", sorted(MODEL_SPECS))  # varies slowest: one checkpoint at a time
def test_embed_batch_when_slots_are_empty_then_each_row_gives_the_same_bits(
    name: str, mode: str, recipe: str, weights: WeightsFolder
) -> None:
    model, case = REGISTRY.get(name), default_case(name)
    if case is None or parameters(case) > CHEAP_PARAMETERS:
        pytest.skip("no seeded checkpoint that is small enough")
    if mode not in model.card.outputs or recipe not in model.card.steps:
        pytest.skip("not offered by the card")
    options = SMALLER.get(name, ("", {}))[1]
    embedder = model(make_config(model.card, recipe=recipe, output=OutputSpec(mode), options=options))
    embedder.resolve(weights.hold(case))
    embedder.load("cpu")
    embedder.load("cpu")  # idempotent
    rows = {slot: prepared_row(embedder, case, slot) for slot in range(SLOTS)}
    together = embedder.embed_batch(*batch(rows, rows[0]))
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    if mode == "pooled":
        assert together.shape == (SLOTS, embedder.dim)
    for slot, row in rows.items():
        alone = embedder.embed_batch(*batch({slot: row}, row))
        assert np.isfinite(alone).all()
        assert np.array_equal(alone[slot], together[slot])
