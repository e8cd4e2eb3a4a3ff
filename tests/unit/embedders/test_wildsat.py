"""WildSAT: contrast by recipe, its three backbones and heads, and a checkpoint with the training's arguments in it."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.nets.projected_classifier import ProjectedClassifier
from rsembed.embedders.nets.resnet import ResNet
from rsembed.embedders.onthefly.wildsat import CARD, WildSat
from rsembed.embedders.options import make_config

CASES = Path(__file__).resolve().parents[2] / "parity" / "cases"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))


class Small(WildSat):
    """The model with a small ResNet, whatever the variant."""

    def build(self) -> nn.Module:
        return ProjectedClassifier(ResNet((1, 1), width=4), 32, classes=6, out_dim=5, branches=3)


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(
    recipe: str = "authors", *, output: OutputSpec | None = None, cls: type[WildSat] = WildSat, **options: object
) -> WildSat:
    return cls(make_config(CARD, recipe=recipe, output=output, options=options))


def view(values_chw: np.ndarray) -> View:
    values = values_chw[None].astype(np.float32)
    return View(values, np.isfinite(values), (WINDOW.midpoint,), 8.5, 47.4, 10.0, WINDOW)


def scene(side: int = 224) -> np.ndarray:
    values = np.random.default_rng(0).uniform(500, 3000, (3, side, side))
    values[0, 0, 0], values[1, 0, 1] = 356.0, 3500.0
    return values


def test_wildsat_when_prepared_by_the_authors_recipe_then_the_minimum_goes_and_contrast_stays() -> None:
    pixels = embedder().prepare(view(scene()))["pixels"]
    least = int(356 / 3558 * 255)
    byte = int(np.float32(scene()[2, 7, 9]) / np.float32(3558) * np.float32(255))
    assert pixels.min() == 0.0
    assert float(pixels[1, 0, 1]) == pytest.approx((int(3500 / 3558 * 255) - least) / 255, abs=1e-6)
    assert float(pixels[2, 7, 9]) == pytest.approx((byte - least) / 255, abs=1e-6)


def test_wildsat_when_the_authors_image_is_resized_then_before_the_minimum_is_taken() -> None:
    values = np.full((3, 448, 448), 1779.0)
    values[0, 0, 0] = 0.0
    pixels = embedder().prepare(view(values))["pixels"]
    # Antialiasing spreads the one dark pixel; what is left of it becomes zero.
    assert pixels.shape == (3, 224, 224)
    assert float(pixels.min()) == 0.0
    assert 0.0 < float(pixels[1, 100, 100]) < 127 / 255
    plain = embedder(norm="unit_scale").prepare(view(values))["pixels"]
    assert float(plain[1, 100, 100]) == pytest.approx(127 / 255, abs=1e-6)


def test_wildsat_when_prepared_by_the_references_recipe_then_all_bands_are_stretched_together() -> None:
    pixels = embedder("rs-embed").prepare(view(scene()))["pixels"]
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
    byte = int((scene()[2, 7, 9] - 356) / (3500 - 356) * 255)
    assert float(pixels[2, 7, 9]) == pytest.approx(byte / 255, abs=1e-6)
    plain = embedder("rs-embed", norm="none").prepare(view(scene()))["pixels"]
    assert float(plain[2, 7, 9]) == pytest.approx(int(scene()[2, 7, 9] / 10000 * 255) / 255, abs=1e-6)


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_wildsat_when_all_pixels_are_equal_or_missing_then_zeros(recipe: str) -> None:
    assert not embedder(recipe).prepare(view(np.full((3, 224, 224), 2000.0)))["pixels"].any()
    assert not embedder(recipe).prepare(view(np.full((3, 224, 224), np.nan)))["pixels"].any()


def test_wildsat_when_the_recipe_differs_then_so_does_the_product() -> None:
    assert embedder().fetch_recipe().collection == "COPERNICUS/S2_HARMONIZED"
    assert embedder("rs-embed").fetch_recipe().collection == "COPERNICUS/S2_SR_HARMONIZED"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "vgg"}, "must be one of vitb16, resnet50, swint"),
        ({"image_branch": 4}, "must be one of 1, 2, 3"),
        ({"norm": "zscore"}, "must be one of minmax, unit_scale"),
        ({"feature": "text"}, "must be one of image_head, backbone"),
    ],
    ids=str,
)
def test_wildsat_when_an_option_is_wrong_then_error_lists_what_is_accepted(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        embedder(**options)


def test_wildsat_when_the_backbones_answer_is_asked_then_it_has_the_class_scores_length() -> None:
    assert embedder().dim == 256
    assert embedder(feature="auto").dim == 256
    assert embedder(feature="backbone").dim == 1000


@pytest.mark.parametrize(
    ("case", "variant"), [("wildsat", "vit"), ("wildsat_resnet50", "resnet50"), ("wildsat_swint", "swin_tiny")]
)
def test_wildsat_when_built_then_it_fits_the_checkpoint(case: str, variant: str) -> None:
    with torch.device("meta"):
        net = embedder(variant=variant).build()
    weights = json.loads((CASES / case / "weights.json").read_text())
    kept = {}
    for name, tensor in weights["tensors"].items():
        for pattern, replacement in WildSat.rename:
            name = re.sub(pattern, replacement, name)
        kept[name] = tensor["shape"]
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    file = embedder(variant=variant).weights_file()
    assert (file.file, file.url.split("id=")[-1]) == (weights["file"], weights["repo"].split("id=")[-1])


def published(net: nn.Module, *, prefix: str) -> dict[str, object]:
    """A file as the authors write it, for the small network."""
    state = {}
    for name, tensor in net.state_dict().items():
        name = re.sub(r"^branches\.(\d)\.", lambda found: f"decoder.backbone{int(found[1]) + 1}.0.", name)
        name = re.sub(r"^classifier\.", "backbone.fc.", name)
        state[prefix + re.sub(r"^trunk\.", "backbone.", name)] = tensor
    state[f"{prefix}backbone.features.1.0.attn.relative_position_index"] = torch.zeros(9, dtype=torch.int64)
    arguments = argparse.Namespace(satellite_encoder="resnet50", lr=1e-4, use_bnft=True, ckpt_path=None)
    return {"epoch": 26, "opt": arguments, "satellite_state_dict": state, "text_emb_model": {"head": torch.zeros(2)}}


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize(("feature", "branch"), [("image_head", 1), ("image_head", 3), ("backbone", 3)])
def test_wildsat_when_loaded_then_the_vector_is_that_of_the_head_asked_for(
    tmp_path: Path, prefix: str, feature: str, branch: int
) -> None:
    torch.manual_seed(0)
    net = Small().build().eval()
    path = tmp_path / "weights" / "wildsat" / "resnet50-imagenet-bnfc.pth"
    path.parent.mkdir(parents=True)
    torch.save(published(net, prefix=prefix), path)
    settings = Settings(weights_dir=tmp_path / "weights", cache_dir=tmp_path / "cache", offline=True)
    answers = {}
    for output in (OutputSpec.pooled(), OutputSpec.grid()):
        made = embedder(cls=Small, variant="resnet50", feature=feature, image_branch=branch, output=output)
        made.resolve(settings)
        made.load("cpu")
        pixels = made.prepare(view(scene()))["pixels"][None]
        answers[output.mode] = made.embed_batch({"pixels": pixels}, np.array([[0, 0, 1, 1]], np.float32))[0]
    with torch.inference_mode():
        scores = net.classifier(net.trunk(torch.from_numpy(pixels)).vector)
        expected = scores if feature == "backbone" else net.branches[branch - 1](scores)
    np.testing.assert_allclose(answers["pooled"], expected[0], atol=1e-6)
    assert answers["grid"].shape == (len(expected[0]), 1, 1)
    np.testing.assert_array_equal(answers["grid"][:, 0, 0], answers["pooled"])


def test_wildsat_when_a_file_holds_other_classes_then_error(tmp_path: Path) -> None:
    path = tmp_path / "wildsat" / "resnet50-imagenet-bnfc.pth"
    path.parent.mkdir()
    torch.save({**published(Small().build(), prefix=""), "opt": Path("elsewhere")}, path)
    made = embedder(cls=Small, variant="resnet50")
    made.resolve(Settings(weights_dir=tmp_path, cache_dir=tmp_path / "cache", offline=True))
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        made.load("cpu")
