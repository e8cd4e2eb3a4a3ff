"""A checkpoint that does not fit is refused by name; a network never runs on initial values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rsembed.core.errors import WeightsError
from rsembed.embedders.checkpoint import fit, load_state_dict


def state() -> dict[str, Tensor]:
    return {
        "encoder.fc.weight": torch.arange(6.0).reshape(2, 3),
        "encoder.fc.bias": torch.ones(2),
        "decoder.weight": torch.zeros(4),
    }


def net() -> nn.Module:
    with torch.device("meta"):
        return nn.ModuleDict({"fc": nn.Linear(3, 2)})


RENAME = ((r"^encoder\.", ""),)
DROP = (r"decoder\..*",)


def test_fit_when_everything_is_there_then_loaded_and_the_dropped_are_named() -> None:
    loaded = net()
    assert fit(state(), loaded, rename=RENAME, drop=DROP) == ("decoder.weight",)
    assert torch.equal(loaded.state_dict()["fc.weight"], state()["encoder.fc.weight"])


def test_fit_when_rename_is_a_function_then_it_is_called() -> None:
    loaded = net()
    fit(state(), loaded, rename=lambda name: name.removeprefix("encoder."), drop=DROP)
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


def test_fit_when_the_file_is_in_half_precision_then_cast_to_the_networks() -> None:
    loaded = net()
    fit({name: tensor.half() for name, tensor in state().items()}, loaded, rename=RENAME, drop=DROP)
    assert loaded.state_dict()["fc.weight"].dtype == torch.float32


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state().items() if key != name}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (without("encoder.fc.bias"), "1 missing: fc.bias"),
        ({**state(), "encoder.extra": torch.ones(1)}, "1 unexpected: encoder.extra"),
        (
            {**without("encoder.fc.bias"), "encoder.fc.offset": torch.ones(2)},
            "1 missing: fc.bias; 1 unexpected: encoder.fc.off",
        ),
        ({**state(), "encoder.fc.bias": torch.ones(3)}, r"encoder.fc.bias \(3,\) instead of \(2,\)"),
        ({}, "2 missing: fc.weight, fc.bias"),
    ],
    ids=["missing", "extra", "renamed", "shape", "empty"],
)
def test_fit_when_a_tensor_is_wrong_then_it_is_named_and_nothing_is_loaded(
    given: dict[str, Tensor], words: str
) -> None:
    loaded = net()
    with pytest.raises(WeightsError, match=words) as caught:
        fit(given, loaded, rename=RENAME, drop=DROP, file="tiny.pt")
    assert "tiny.pt" in str(caught.value)
    assert all(tensor.is_meta for tensor in loaded.state_dict().values())


def test_fit_when_many_are_missing_then_a_few_are_named_and_the_rest_counted() -> None:
    with torch.device("meta"):
        deep = nn.Sequential(*(nn.Linear(1, 1) for _ in range(5)))
    with pytest.raises(WeightsError, match=r"10 missing: .* and 5 more"):
        fit({}, deep)


def test_fit_when_two_tensors_have_one_name_then_error() -> None:
    with pytest.raises(WeightsError, match="both stand for"):
        fit({"a.fc.bias": torch.ones(2), "b.fc.bias": torch.ones(2)}, net(), rename=((r"^[ab]\.", ""),))


def test_fit_when_a_buffer_is_in_no_file_then_error() -> None:
    with torch.device("meta"):
        lonely = nn.Module()
        lonely.register_buffer("table", torch.zeros(2), persistent=False)
    with pytest.raises(WeightsError, match="no file fills: table"):
        fit({}, lonely)


def test_load_state_dict_when_wrapped_then_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    torch.save({"checkpoint": {"model": state()}, "epoch": 3}, path)
    assert load_state_dict(str(path), ("checkpoint", "model")).keys() == state().keys()


@pytest.mark.parametrize("wrapped", [True, False])
def test_load_state_dict_when_bare_is_allowed_then_with_and_without_the_wrap(wrapped: bool, tmp_path: Path) -> None:
    path, tensors = tmp_path / "w.pt", {"a": torch.ones(2)}
    torch.save({"model": tensors} if wrapped else tensors, path)
    assert load_state_dict(str(path), ("model",), bare=True)["a"].tolist() == [1.0, 1.0]


def test_load_state_dict_when_the_wrap_is_wrong_then_the_keys_found_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    torch.save({"model": state(), "epoch": 3}, path)
    with pytest.raises(WeightsError, match="found the keys model, epoch"):
        load_state_dict(str(path), ("state_dict",))
    with pytest.raises(WeightsError, match="one level deeper"):
        load_state_dict(str(path))


def test_load_state_dict_when_safetensors_then_the_same_tensors(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file(state(), path)
    loaded = load_state_dict(str(path))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state().items())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0, 7, -200])
def test_load_state_dict_when_truncated_then_error_says_so(tmp_path: Path, kind: str, kept: int) -> None:
    path = tmp_path / ("tiny.safetensors" if kind == "safetensors" else "tiny.pt")
    big = {"weight": torch.ones(500)}
    if kind == "safetensors":
        save_file(big, path)
    else:
        torch.save(big, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="truncated, damaged"):
        load_state_dict(str(path))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_load_state_dict_when_a_file_would_run_code_then_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.pt"
    torch.save({"weight": torch.ones(1), "extra": Harmful()}, path)
    with pytest.raises(WeightsError, match=r"print.* would run code"):
        load_state_dict(str(path))
    assert capsys.readouterr().out == ""


PEAK = """
import sys
from pathlib import Path
import torch
from rsembed.embedders.checkpoint import fit, load_state_dict

def megabytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

def load(file, layers):
    with torch.device("meta"):
        net = torch.nn.Sequential(*(torch.nn.Linear(512, 512, bias=False) for _ in range(layers)))
    fit(load_state_dict(file), net)
    return net

layers, *files = sys.argv[1:]
for small, large in zip(files[0::2], files[1::2]):
    load(small, 1)  # whatever is loaded on first use is there by now
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = megabytes("VmRSS")
    net = load(large, int(layers))
    print(megabytes("VmHWM") - before)
    del net
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read where Linux tells it")
def test_load_state_dict_when_the_file_is_large_then_its_tensors_are_never_in_memory_twice(tmp_path: Path) -> None:
    layers = 96  # of one megabyte each
    files = [str(tmp_path / f"{count}.{kind}") for kind in ("pt", "safetensors") for count in (1, layers)]
    for file in files:
        weights = {f"{i}.weight": torch.full((512, 512), float(i)) for i in range(int(Path(file).stem))}
        save_file(weights, file) if file.endswith("safetensors") else torch.save(weights, file)
    given = [sys.executable, "-c", PEAK, str(layers), *files]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    for peak in done.stdout.split():
        assert float(peak) <= 1.2 * layers
