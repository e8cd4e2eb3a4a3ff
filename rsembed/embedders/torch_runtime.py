"""Devices, arithmetic and loaded networks of this process."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsembed.core.card import OptionValue
from rsembed.core.errors import ModelError
from rsembed.core.specs import OutputSpec
from rsembed.embedders.base import Floats, Precision
from rsembed.embedders.kernel_check import check_kernels
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.pooling import pool_frames, pool_tokens

logger = logging.getLogger(__name__)


class NetKey(NamedTuple):
    """What makes two embedders share a network. ``options``: those that shape it; ``sha256``: of the weights."""

    model: str
    modality: str
    options: tuple[tuple[str, OptionValue], ...]
    sha256: str
    device: str
    precision: Precision


MAX_NETS = 4
_nets: OrderedDict[NetKey, nn.Module] = OrderedDict()
_nets_lock = threading.Lock()
_checked: set[tuple[str, Precision]] = set()
_cuda_lock = threading.Lock()


def find_device(name: str, precision: Precision) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises ModelError when it is not there, or cannot do ``precision``.
    """
    found = devices()
    if name == "auto":
        name = found[1] if len(found) > 1 else "cpu"
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in found:
        raise ModelError(f"device {name!r} is not there; this machine has {', '.join(found)}")
    if precision != "fp32" and not wanted.startswith("cuda"):
        raise ModelError(f"precision {precision!r} needs a CUDA device, got {name!r}; use precision='fp32'")
    return torch.device(wanted)


def devices() -> list[str]:
    """Names of the devices of this machine: ``cpu`` first, then accelerators."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def set_threads(threads: int) -> None:
    """Use ``threads`` CPU threads for every forward pass of this process."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def cached_net(key: NetKey, build: Callable[[], nn.Module]) -> nn.Module:
    """The network under ``key``, built at most once while it is among the last ``MAX_NETS`` used."""
    with _nets_lock:
        if key not in _nets:
            _nets[key] = build()
            while len(_nets) > MAX_NETS:
                gone, _ = _nets.popitem(last=False)
                logger.info("net_dropped", extra={"model": gone.model, "device": gone.device})
        _nets.move_to_end(key)
        return _nets[key]


def drop_net(net: nn.Module) -> None:
    """Forget one cached network; embedders in use keep theirs."""
    with _nets_lock:
        for key in [key for key, cached in _nets.items() if cached is net]:
            del _nets[key]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_cache() -> int:
    """Forget every cached network; returns how many there were. Embedders in use keep theirs."""
    with _nets_lock:
        count = len(_nets)
        _nets.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return count


def check_once(device: torch.device, precision: Precision) -> None:
    """Check what all networks lean on, on the first load for that device and precision; see ``kernel_check``."""
    if (str(device), precision) not in _checked:
        with arithmetic(device, precision):
            check_kernels(device, precision)
        _checked.add((str(device), precision))


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run with exactly the arithmetic asked for: TF32 only when it is the precision.

    torch keeps these switches per process, so one CUDA batch runs at a time.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            stack.enter_context(_cuda_lock)
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            if precision == "bf16":
                stack.enter_context(torch.autocast("cuda", torch.bfloat16))
        yield


def to_device(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """The arrays as tensors on ``device``, bit for bit."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


def run_batch(
    forward: Callable[[dict[str, Tensor]], Tokens],
    arrays: Mapping[str, NDArray[Any]],
    roi: Floats,
    *,
    device: torch.device,
    precision: Precision,
    output: OutputSpec,
    use_vector: bool,
) -> Floats:
    """One forward pass and its pooling: float32 (B, D), or (B, D, h, w) for a grid.

    ``use_vector``: the pooled answer is the network's own vector. Raises MemoryError when the
    device's memory runs out (the caller halves the batch).
    """
    try:
        with arithmetic(device, precision):
            tokens = forward(to_device({**arrays, "roi": roi}, device))
        with torch.inference_mode():
            out = reduce_tokens(tokens, torch.from_numpy(roi).to(device), output, use_vector=use_vector)
            result: Floats = out.to("cpu", torch.float32).contiguous().numpy()
    except torch.OutOfMemoryError as exc:
        raise MemoryError(f"{device} has no memory left for a batch of {len(roi)}: {exc}") from exc
    return result


def reduce_tokens(tokens: Tokens, roi: Tensor, output: OutputSpec, *, use_vector: bool) -> Tensor:
    """The answer that ``output`` asks for out of a network's tokens."""
    if output.mode == "pooled" and (use_vector or tokens.patches_bthwd is None):
        if tokens.vector is None:
            raise ModelError("this network gives no image vector of its own")
        return tokens.vector
    if tokens.patches_bthwd is None:
        raise ModelError("this network gives no tokens per ground cell, so there is nothing to pool or to map")
    if output.mode == "grid":
        return pool_frames(tokens.patches_bthwd, output.pooling, tokens.weights_bthw)
    return pool_tokens(tokens.patches_bthwd, roi, output.pooling, tokens.weights_bthw)
