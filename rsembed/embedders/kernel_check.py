"""Whether a device computes what it should: a look at the kernels that all networks lean on, once a process.

Releases of torch have had fast attention that was wrong for odd numbers of tokens, for biases that are not aligned,
or on one chip only; nothing but the numbers tells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from rsembed.core.errors import ModelError
from rsembed.embedders.base import Precision

ALLOWED: dict[Precision, float] = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
"""Largest difference for values of about one; ten times what a sound kernel shows."""
_HEADS, _TOKENS, _WIDTH = 3, 197, 64
"""197: a grid of 14 x 14 and a class token, a multiple of nothing."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def _fast_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def check_kernels(device: torch.device, precision: Precision, *, attend: Attend = _fast_attention) -> None:
    """Raise ModelError when attention or a convolution on ``device`` is off; called under its arithmetic.

    Compared with the formulas in float64 on the CPU.
    """
    for name, got, expected in (
        *((name, attend(*given), plain) for name, given, plain in _attentions(device)),
        ("a convolution", *_convolutions(device)),
    ):
        error = float((got.to("cpu", torch.float64) - expected).abs().max())
        if not error <= ALLOWED[precision]:  # NaN too
            raise ModelError(
                f"{name} on {device} in {precision} is off by {error:.2g}, more than {ALLOWED[precision]:g}: torch "
                f"{torch.__version__} computes wrong numbers there. Use another release of it, another precision or "
                f"device='cpu'"
            )


def _attentions(device: torch.device) -> list[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor | None], Tensor]]:
    q, k, v, bias = (tensor.to(device) for tensor in _inputs())
    plain, biased = _plain_attention()
    # As the networks call it: heads split off the channels, so not contiguous.
    q, k, v = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (q, k, v))
    return [("attention", (q, k, v, None), plain), ("attention with a bias", (q, k, v, bias), biased)]


@lru_cache(maxsize=1)
def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(0)
    shape = (2, _HEADS, _TOKENS, _WIDTH)
    q, k, v = (torch.randn(shape, generator=noise) for _ in range(3))
    return q, k, v, torch.randn((1, _HEADS, _TOKENS, _TOKENS), generator=noise)


@lru_cache(maxsize=1)
def _plain_attention() -> tuple[Tensor, Tensor]:
    q, k, v, bias = (tensor.double() for tensor in _inputs())
    logits = q @ k.transpose(-1, -2) / _WIDTH**0.5
    return logits.softmax(-1) @ v, (logits + bias).softmax(-1) @ v


def _convolutions(device: torch.device) -> tuple[Tensor, Tensor]:
    """A patch embedding as the device does it, and as products of patches and kernels."""
    noise = torch.Generator().manual_seed(1)
    images, kernels = torch.randn((2, 3, 32, 32), generator=noise), torch.randn((8, 3, 16, 16), generator=noise) / 28
    patches = images.double().unfold(2, 16, 16).unfold(3, 16, 16)
    expected = torch.einsum("bchwij,ocij->bohw", patches, kernels.double())
    return F.conv2d(images.to(device), kernels.to(device), stride=16), expected
