"""A checkpoint of the right shape with one thing wrong in it: for every model a refusal that names tensor and file.

The files are full of holes: each tensor has its published name and shape, and next to no bytes behind it.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor

PARITY = Path(__file__).resolve().parents[1] / "parity"
sys.path.insert(0, str(PARITY))

from cases import Case, all_cases  # noqa: E402 - found through the line above

from rsembed.core.errors import WeightsError  # noqa: E402 - the same
from rsembed.core.specs import OutputSpec  # noqa: E402 - the same
from rsembed.embedders.catalog import MODEL_SPECS  # noqa: E402 - the same
from rsembed.embedders.registry import REGISTRY  # noqa: E402 - the same
from rsembed.embedders.torch_model import TorchEmbedder  # noqa: E402 - the same
from rsembed.embedders.weights import WeightsHandle  # noqa: E402 - the same

Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Published:
    """One published file: the parity case that describes it, and how it goes wrong."""

    case: Case

    @property
    def name(self) -> str:
        return f"{self.case.facts['model']}-{Path(self.weights['file']).stem}"

    @cached_property
    def weights(self) -> dict[str, object]:
        return json.loads((self.case.folder / "weights.json").read_text())

    @cached_property
    def shapes(self) -> Shapes:
        return {name: tensor["shape"] for name, tensor in self.weights["tensors"].items()}

    @cached_property
    def embedder(self) -> TorchEmbedder:
        made = self.case.model(self.case.config(OutputSpec.pooled()))
        assert isinstance(made, TorchEmbedder)
        return made

    @cached_property
    def victim(self) -> str:
        """A large tensor of the file's last layers that the network needs."""
        needed = [
            name
            for name, shape in self.shapes.items()
            if len(shape) > 1 and not any(re.fullmatch(pattern, name) for pattern in self.embedder.drop)
        ]
        return needed[-1]

    def inside(self, name: str) -> str:
        """The network's name of the file's tensor ``name``."""
        for pattern, replacement in self.embedder.rename:
            name = re.sub(pattern, replacement, name)
        return name

    def write(self, folder: Path, shapes: Shapes, *, wrapped: bool = True) -> Path:
        """A file with ``shapes``, under its published name."""
        path = folder / Path(str(self.weights["file"])).name
        if self.weights["format"] == "safetensors":
            write_hollow_safetensors(path, shapes)
            return path
        state: object = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
        for key in reversed(self.weights["wrap"] if wrapped else []):
            state = {key: state}
        torch.save(state, path)
        return path

    def load(self, path: Path) -> str:
        """The words of the refusal."""
        embedder = self.case.model(self.case.config(OutputSpec.pooled()))
        assert isinstance(embedder, TorchEmbedder)
        # As resolve() leaves it, but for the checksum, which would read every hole.
        embedder.weights = WeightsHandle(path, str(path), None, path.name, None, "folder")
        with pytest.raises(WeightsError) as caught:
            embedder.load("cpu")
        return str(caught.value)


def write_hollow_safetensors(path: Path, shapes: Shapes) -> None:
    """The header in full, then a hole as long as the tensors."""
    end, table = 0, {}
    for name, shape in shapes.items():
        size = 4 * Tensor.numel(torch.empty(shape, device="meta"))
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)


def published() -> list[Published]:
    """One for each file that the parity cases describe."""
    by_file = {}
    for case in all_cases():
        if case.weights_key:
            by_file.setdefault(case.weights_key, Published(case))
    return list(by_file.values())


@pytest.fixture(params=published(), ids=lambda given: given.name)
def file(request: pytest.FixtureRequest) -> Published:
    return request.param


def test_files_when_counted_then_every_model_with_weights_has_one() -> None:
    with_weights = {name for name in MODEL_SPECS if REGISTRY.get(name).card.weights}
    assert {given.case.facts["model"] for given in published()} == with_weights


def test_load_when_a_tensor_is_missing_then_error_names_it_and_the_file(file: Published, tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in file.shapes.items() if name != file.victim}
    path = file.write(tmp_path, shapes)
    words = file.load(path)
    assert f"1 missing: {file.inside(file.victim)}" in words
    assert str(path) in words


@pytest.mark.parametrize("where", ["beside", "at the top"])
def test_load_when_there_is_a_tensor_too_many_then_error_names_it_and_the_file(
    file: Published, where: str, tmp_path: Path
) -> None:
    extra = f"{file.victim}_mystery" if where == "beside" else "mystery.weight"
    if any(re.fullmatch(pattern, extra) for pattern in file.embedder.drop):
        pytest.skip("the model drops whatever lies there")
    path = file.write(tmp_path, {**file.shapes, extra: [2]})
    words = file.load(path)
    assert f"1 unexpected: {extra}" in words
    assert str(path) in words


def test_load_when_a_tensor_is_renamed_then_error_names_both(file: Published, tmp_path: Path) -> None:
    shapes = {f"{name}_old" if name == file.victim else name: shape for name, shape in file.shapes.items()}
    path = file.write(tmp_path, shapes)
    words = file.load(path)
    assert f"1 missing: {file.inside(file.victim)}" in words
    assert f"1 unexpected: {file.victim}_old" in words
    assert str(path) in words


def test_load_when_a_tensor_has_another_shape_then_error_names_both_shapes(file: Published, tmp_path: Path) -> None:
    shape = file.shapes[file.victim]
    other = [shape[0] + 1, *shape[1:]]
    path = file.write(tmp_path, {**file.shapes, file.victim: other})
    words = file.load(path)
    assert f"1 of another shape: {file.victim} {tuple(other)} instead of {tuple(shape)}" in words
    assert str(path) in words


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_load_when_the_file_is_truncated_then_error_says_so(file: Published, kept: float, tmp_path: Path) -> None:
    path = file.write(tmp_path, file.shapes)
    with path.open("r+b") as handle:
        handle.truncate(int(path.stat().st_size * kept))
    words = file.load(path)
    assert str(path) in words
    assert "truncated, damaged or of another format: delete it and pull it again" in words


def test_load_when_the_tensors_lie_at_another_depth_then_error_says_what_was_found(
    file: Published, tmp_path: Path
) -> None:
    if file.weights["format"] == "safetensors":
        pytest.skip("a safetensors file has no depth")
    if file.embedder.bare:
        pytest.skip("both depths are published")
    path = file.write(tmp_path, file.shapes, wrapped=False)
    if not file.weights["wrap"]:
        torch.save({"ema": {"inner": {}}, "epoch": 3}, path)
    words = file.load(path)
    assert str(path) in words
    assert "epoch" in words or "found the keys" in words
