"""Scale-MAE: positions from the pixel size of each input, and what the recipes take from the network."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rsembed.core.errors import ModelError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.batching import run_slots
from rsembed.embedders.nets.mae_encoders import ScaleEncoder
from rsembed.embedders.nets.positions import sincos_2d
from rsembed.embedders.onthefly.scalemae import CARD, ScaleMae
from rsembed.embedders.options import make_config
from rsembed.embedders.prepared import Prepared
from rsembed.embedders.weights import WeightsHandle, WeightsPin

CASES = Path(__file__).resolve().parents[2] / "parity" / "cases"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small_net() -> ScaleEncoder:
    torch.manual_seed(0)
    net = ScaleEncoder(16, 2, heads=2, patch_px=16, eps=1e-6)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


class Small(ScaleMae):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> torch.nn.Module:
        return small_net()


def embedder(recipe: str = "authors", output: OutputSpec | None = None, cls: type[ScaleMae] = ScaleMae) -> ScaleMae:
    return cls(make_config(CARD, recipe=recipe, output=output))


def view(side: int, scale_m: float = 10.0, seed: int = 0) -> View:
    values = np.random.default_rng(seed).integers(0, 4000, (1, 3, side, side)).astype(np.float32)
    return View(values, np.ones(values.shape, bool), (WINDOW.midpoint,), 8.5, 47.4, scale_m, WINDOW)


@pytest.mark.parametrize(
    ("recipe", "side", "scale_m", "expected"),
    [
        ("rs-embed", 224, 10, 10.0),
        ("rs-embed", 300, 10, 10 * 300 / 224),
        ("rs-embed", 112, 20, 10.0),
        # The authors' features: 1.0 for an image in its own resolution, and twice that for pixels twice as large.
        ("authors", 224, 10, 1.0),
        ("authors", 448, 10, 2.0),
        ("authors", 224, 30, 3.0),
    ],
)
def test_scalemae_when_prepared_then_the_resolution_is_that_of_the_networks_pixels(
    recipe: str, side: int, scale_m: float, expected: float
) -> None:
    resolution = embedder(recipe).prepare(view(side, scale_m))["input_res"]
    assert (resolution.shape, resolution.dtype) == ((), np.float32)
    assert float(resolution) == pytest.approx(expected, rel=1e-7)


def test_scalemae_when_prepared_then_bytes_are_standardised_with_imagenets_statistics() -> None:
    values = np.broadcast_to(np.array([3000.0, 2000.0, 12000.0], np.float32)[:, None, None], (3, 224, 224))[None]
    valid = np.ones(values.shape, bool)
    valid[..., 0, 0] = False
    seen = View(values, valid, (WINDOW.midpoint,), 8.5, 47.4, 10.0, WINDOW)
    pixels = embedder().prepare(seen)["pixels"]
    expected = [(b / 255 - m) / s for b, m, s in zip((76, 51, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert pixels[:, 9, 9].tolist() == pytest.approx(expected, abs=1e-6)
    missing = [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert pixels[:, 0, 0].tolist() == pytest.approx(missing, abs=1e-6)


def test_scale_encoder_when_resolutions_differ_then_each_input_has_its_own_positions() -> None:
    steps = torch.tensor([10.0, 13.5])
    tables = sincos_2d(16, 2, 3, step=steps, dtype=torch.float32)
    assert tables.shape == (2, 2, 3, 16)
    for table, step in zip(tables, steps.tolist(), strict=True):
        assert torch.equal(table, sincos_2d(16, 2, 3, step=step, dtype=torch.float32))
    # The column's code comes first: sine of its distance leads.
    assert tables[1, 0, 2, 0].item() == pytest.approx(np.sin(27.0), abs=1e-6)
    assert tables[1, 1, 0, 8].item() == pytest.approx(np.sin(13.5), abs=1e-6)


def test_scalemae_when_run_then_the_recipes_take_different_tokens() -> None:
    seen = view(224)
    pixels = torch.from_numpy(embedder().prepare(seen)["pixels"])[None]
    net = small_net()
    with torch.inference_mode():
        normed = net(pixels, torch.tensor([1.0]), final_norm=True)
        raw = net(pixels, torch.tensor([10.0]), final_norm=False)
    whole = np.array([[0, 0, 1, 1]], np.float32)

    def answer(recipe: str, output: OutputSpec) -> np.ndarray:
        made = embedder(recipe, output, Small)
        made.load("cpu")
        return made.embed_batch({name: array[None] for name, array in made.prepare(seen).items()}, whole)[0]

    np.testing.assert_allclose(answer("authors", OutputSpec()), normed.cls[0], atol=1e-6)
    np.testing.assert_allclose(
        answer("authors", OutputSpec.grid()), normed.patches_bthwd[0, 0].permute(2, 0, 1), atol=1e-6
    )
    tokens = raw.patches_bthwd[0, 0]
    np.testing.assert_allclose(answer("rs-embed", OutputSpec()), tokens.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(answer("rs-embed", OutputSpec.pooled("max")), tokens.amax((0, 1)), atol=1e-6)
    np.testing.assert_allclose(answer("rs-embed", OutputSpec.grid()), tokens.permute(2, 0, 1), atol=1e-6)


def test_scalemae_when_max_pooling_is_asked_of_the_class_token_then_error() -> None:
    with pytest.raises(ModelError, match="own image vector"):
        embedder("authors", OutputSpec.pooled("max"))
    assert embedder("authors").own_vector
    assert not embedder("rs-embed").own_vector


def test_scalemae_when_both_recipes_are_loaded_then_they_share_one_network() -> None:
    torch_runtime.reset_cache()
    for recipe in ("authors", "rs-embed"):
        embedder(recipe, cls=Small).load("cpu")
    assert torch_runtime.reset_cache() == 1


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_scalemae_when_scales_are_mixed_then_each_row_is_what_it_is_alone(recipe: str) -> None:
    made = embedder(recipe, cls=Small)
    made.load("cpu")
    views = [view(224), view(300, seed=1), view(224, 30.0, seed=2)]
    rows = [Prepared(made.prepare(seen), (0.0, 0.0, 1.0, 1.0), 1.0) for seen in views]
    together = run_slots(made, lambda slot: [rows[slot]], 3, batch_size=4)
    assert together.forwards == 1
    for slot in range(3):
        alone = run_slots(made, lambda i, slot=slot: [rows[i]] if i == slot else None, 3, batch_size=4)
        assert np.array_equal(alone.values[slot], together.values[slot])
    assert not np.array_equal(together.values[0], together.values[1])


def test_scalemae_when_built_then_it_fits_the_checkpoint() -> None:
    with torch.device("meta"):
        net = embedder().build()
    weights = json.loads((CASES / "scalemae" / "weights.json").read_text())
    [(pattern, replacement)] = ScaleMae.rename
    shapes = {re.sub(pattern, replacement, name): t["shape"] for name, t in weights["tensors"].items()}
    assert shapes == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    assert weights["file"] in (CARD.weights[""].file, *CARD.weights[""].other_files)
