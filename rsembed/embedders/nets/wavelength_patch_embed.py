"""Patch embedding whose kernels are generated from the bands' wavelengths (DOFA, arXiv:2403.15356, section 3).

One small transformer reads the wavelengths and writes a convolution kernel per band, so a network
takes any bands in any number. The models that use it differ in small ways, which :class:`KernelSpec` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.positions import sincos_1d
from rsembed.embedders.nets.transformer import Block, BlockSpec

_WIDTH = 128  # length of a wavelength's code
_QUERIES = 128


@dataclass(frozen=True)
class KernelSpec:
    """Details of the generator.

    ``dim``, ``patch``: of the tokens. ``unit_per_um``: wavelengths are coded as micrometres times
    this. ``span``: see :func:`sincos_1d`. ``activation``: of the two-layer branch on the codes.
    ``layout``: order of a generated row, ``rows_columns_dim`` or ``dim_rows_columns``.
    ``kernel_scale``, ``bias_scale``: factors on what is generated. ``padding``: zeros around the image.
    """

    dim: int
    patch: int
    unit_per_um: float
    span: float
    activation: Literal["relu", "gelu"]
    layout: Literal["rows_columns_dim", "dim_rows_columns"]
    kernel_scale: float
    bias_scale: float
    padding: int = 0


class ResidualCode(nn.Module):
    """``x + a(fc2(a(fc1 x)))``: the activation closes the branch as well."""

    def __init__(self, activation: Literal["relu", "gelu"]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(_WIDTH, _WIDTH)
        self.fc2 = nn.Linear(_WIDTH, _WIDTH)
        self.relu = activation == "relu"

    def forward(self, x: Tensor) -> Tensor:
        """(..., 128) -> (..., 128)."""
        if self.relu:
            return x + F.relu(self.fc2(F.relu(self.fc1(x))))
        return x + F.gelu(self.fc2(F.gelu(self.fc1(x))))


class WavelengthPatchEmbed(nn.Module):
    """Square patches of an image whose bands are told by their wavelengths."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight_tokens = nn.Parameter(torch.zeros(_QUERIES, _WIDTH))
        self.bias_token = nn.Parameter(torch.zeros(1, _WIDTH))
        self.code = ResidualCode(spec.activation)
        self.mixer = Block(BlockSpec(_WIDTH, 4, hidden=2048, eps=1e-5, norm="post"))
        self.to_kernel = nn.Linear(_WIDTH, spec.patch * spec.patch * spec.dim)
        self.to_bias = nn.Linear(_WIDTH, spec.dim)

    def kernels(self, wavelengths_um: Tensor) -> tuple[Tensor, Tensor]:
        """Wavelengths (C,) -> kernel (dim, C, patch, patch) and bias (dim,)."""
        spec, bands = self.spec, len(wavelengths_um)
        codes = self.code(sincos_1d(wavelengths_um.to(torch.float32) * spec.unit_per_um, _WIDTH, span=spec.span))
        mixed = self.mixer(torch.cat([self.weight_tokens, codes, self.bias_token])[None])[0]
        rows = self.to_kernel(mixed[_QUERIES : _QUERIES + bands] + codes)
        if spec.layout == "rows_columns_dim":
            kernel = rows.view(bands, spec.patch, spec.patch, spec.dim).permute(3, 0, 1, 2)
        else:
            kernel = rows.view(bands, spec.dim, spec.patch, spec.patch).permute(1, 0, 2, 3)
        return kernel * spec.kernel_scale, self.to_bias(mixed[-1]) * spec.bias_scale

    def forward(self, pixels_bchw: Tensor, wavelengths_um: Tensor) -> Tensor:
        """(B, C, H, W) and the wavelengths (C,) of all its images -> (B, h, w, dim)."""
        kernel, bias = self.kernels(wavelengths_um)
        out = F.conv2d(pixels_bchw, kernel, bias, stride=self.spec.patch, padding=self.spec.padding)
        return out.permute(0, 2, 3, 1)
