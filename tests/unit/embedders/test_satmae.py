"""SatMAE: network inputs, the recipes' norm, and the shapes of its checkpoint; no weights needed."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rsembed.core.errors import ModelError
from rsembed.core.specs import Window
from rsembed.embedders.base import View
from rsembed.embedders.nets.mae_encoders import TableEncoder
from rsembed.embedders.onthefly.satmae import CARD, SatMae
from rsembed.embedders.options import make_config

CASES = Path(__file__).resolve().parents[2] / "parity" / "cases"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
FMOW_MEAN = (0.4182007312774658, 0.4214799106121063, 0.3991275727748871)
FMOW_STD = (0.28774282336235046, 0.27541765570640564, 0.2764017581939697)


def embedder(recipe: str = "authors") -> SatMae:
    return SatMae(make_config(CARD, recipe=recipe))


def view(values_tchw: np.ndarray, valid: np.ndarray | None = None) -> View:
    valid = np.ones(values_tchw.shape, bool) if valid is None else valid
    return View(values_tchw.astype(np.float32), valid, (WINDOW.midpoint,), 8.5, 47.4, 10.0, WINDOW)


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_satmae_when_prepared_then_bytes_are_standardised_with_the_statistics_of_fmow(recipe: str) -> None:
    values = np.broadcast_to(np.array([3000.0, 2000.0, 12000.0])[:, None, None], (3, 224, 224))[None].copy()
    values[0, 0, 0, 0] = np.nan
    valid = np.ones(values.shape, bool)
    valid[0, 0, 0, 1] = False
    pixels = embedder(recipe).prepare(view(values, valid))["pixels"]
    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == np.float32
    # 0.3 and 0.2 of 255, cut off; beyond 1 clipped.
    expected = [(byte / 255 - m) / s for byte, m, s in zip((76, 51, 255), FMOW_MEAN, FMOW_STD, strict=True)]
    assert pixels[:, 5, 5].tolist() == pytest.approx(expected, abs=1e-6)
    missing = -FMOW_MEAN[0] / FMOW_STD[0]
    assert pixels[0, 0, :3].tolist() == pytest.approx([missing, missing, expected[0]], abs=1e-6)


def test_satmae_when_the_tile_is_of_another_size_then_it_is_squared_and_resized() -> None:
    values = np.random.default_rng(0).integers(0, 4000, (1, 3, 100, 160))
    assert embedder().prepare(view(values))["pixels"].shape == (3, 224, 224)


def test_satmae_when_given_two_frames_then_error() -> None:
    with pytest.raises(ModelError, match="one frame, got 2"):
        embedder().prepare(view(np.zeros((2, 3, 224, 224))))


@pytest.mark.parametrize(("recipe", "eps"), [("authors", 1e-6), ("rs-embed", 1e-5)])
def test_satmae_when_built_then_it_fits_the_checkpoint_and_has_the_recipes_norm(recipe: str, eps: float) -> None:
    with torch.device("meta"):
        net = embedder(recipe).build()
    tensors = json.loads((CASES / "satmae" / "weights.json").read_text())["tensors"]
    kept = {name: t["shape"] for name, t in tensors.items() if not any(re.fullmatch(p, name) for p in SatMae.drop)}
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    assert {module.eps for module in net.modules() if isinstance(module, torch.nn.LayerNorm)} == {eps}


def test_table_encoder_when_run_then_tokens_are_in_raster_order() -> None:
    torch.manual_seed(0)
    net = TableEncoder(8, 0, heads=2, patch_px=2, image_px=6, eps=1e-6)
    pixels = torch.zeros(1, 3, 6, 6)
    before = net(pixels).patches_bthwd
    pixels[:, :, 2:4, 4:6] = 1.0  # second row, third column
    changed = (net(pixels).patches_bthwd != before).any(-1)
    assert changed[0, 0].nonzero().tolist() == [[1, 2]]
