from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rsembed.core.errors import ModelError
from rsembed.embedders.kernel_check import check_kernels

CPU = torch.device("cpu")


def test_check_when_kernels_are_sound_then_nothing_is_said() -> None:
    check_kernels(CPU, "fp32")


def forgets_the_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def loses_the_last_token(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    out[..., -1, :] = 0
    return out


def gives_nan(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return torch.full_like(q, torch.nan)


@pytest.mark.parametrize(
    ("attend", "words"),
    [
        (forgets_the_bias, "attention with a bias on cpu in fp32 is off by"),
        (loses_the_last_token, "^attention on cpu in fp32 is off by"),
        (gives_nan, "off by nan"),
    ],
)
def test_check_when_a_kernel_is_wrong_then_error_names_it_and_the_way_out(attend: object, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        check_kernels(CPU, "fp32", attend=attend)
    assert torch.__version__ in str(caught.value)
    assert "device='cpu'" in str(caught.value)


def test_check_when_arithmetic_is_coarse_then_its_own_rounding_is_allowed() -> None:
    def rounded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        parts = [None if part is None else part.bfloat16() for part in (q, k, v, bias)]
        return F.scaled_dot_product_attention(*parts[:3], attn_mask=parts[3])

    check_kernels(CPU, "bf16", attend=rounded)
    with pytest.raises(ModelError):
        check_kernels(CPU, "fp32", attend=rounded)
