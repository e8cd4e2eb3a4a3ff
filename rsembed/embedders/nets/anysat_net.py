"""The Sentinel-2 branch of AnySat (arXiv:2412.14123): pixels in time, pixels in a patch, patches in a tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.pixel_series import PixelSeries
from rsembed.embedders.nets.positions import sincos_2d
from rsembed.embedders.nets.transformer import Attention, Block, Blocks, BlockSpec, Mlp
from rsembed.embedders.nets.window_attention import merge, partition

PIXEL_M = 10
_NEAR, _FAR, _REACH = 1.9, 3.8, 15.2  # cells: exact up to; largest bucket; where the logarithm comes to it
_BUCKETS = 8
_CLASS_BUCKET = 7


@dataclass(frozen=True)
class AnySatFeatures:
    """``tile``: (B, D), one vector for the whole input; ``patches``: (B, h, w, D); ``pixels``: (B, H, W, D)."""

    tile: Tensor
    patches: Tensor
    pixels: Tensor

    @property
    def dense(self) -> Tensor:
        """(B, H, W, 2 D): every pixel with its patch's vector before its own."""
        times = self.pixels.shape[1] // self.patches.shape[1]
        patches = self.patches.repeat_interleave(times, 1).repeat_interleave(times, 2)
        return torch.cat([patches, self.pixels], dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def distance_buckets(side: int) -> Tensor:
    """(N, N) int64 on the CPU for a class token and ``side`` x ``side`` cells; read only.

    Which of the learned offsets a pair of tokens takes, by their distance in cells (iRPE, Wu et al. 2021,
    arXiv:2107.14222): exact when near, logarithmic when far. Pairs with the class token have one of their own.
    """
    axis = torch.arange(side, dtype=torch.float32)
    rows, cols = torch.cartesian_prod(axis, axis).unbind(-1)
    distance = torch.hypot(rows[:, None] - rows, cols[:, None] - cols).round()
    logarithmic = _NEAR + (distance.clamp_min(1.0) / _NEAR).log() / math.log(_REACH / _NEAR) * (_FAR - _NEAR)
    far = logarithmic.round().clamp_max(_FAR)
    buckets = torch.full((side * side + 1, side * side + 1), _CLASS_BUCKET, dtype=torch.int64)
    # Distances have no sign, so the lower half of the table lies idle.
    buckets[1:, 1:] = torch.where(distance <= _NEAR, distance, far).to(torch.int64) + int(_FAR)
    return buckets


class DistanceTable(nn.Module):
    """What a query adds to its logits by the distance of the key.

    One table for all heads, and only the first head's query is looked up in it for all of them: a slip of the
    authors' code, with which the weights were trained.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, head_dim, _BUCKETS))

    def forward(self, queries_bhnd: Tensor) -> Tensor:
        """(B, heads, N, head_dim) -> (B, 1, N, N), N the tokens of a square after a class token."""
        by_bucket = queries_bhnd[:, 0] @ self.table[0]
        tokens = by_bucket.shape[1]
        buckets = distance_buckets(math.isqrt(tokens - 1)).to(by_bucket.device)
        return by_bucket.gather(2, buckets.expand(len(by_bucket), tokens, tokens))[:, None]


class DistanceAttention(Attention):
    """Self-attention over a square of tokens and a class token, with the bias of a :class:`DistanceTable`."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec)
        self.distances = DistanceTable(spec.width // spec.heads)

    def forward(self, x: Tensor, bias: Tensor | None = None, positions_bna: Tensor | None = None) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        q, k, v = self.queries_keys_values(x)
        return self.attend(q, k, v, self.distances(q / math.sqrt(q.shape[-1])))


class DistanceBlock(Block):
    """A block with :class:`DistanceAttention`."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec)
        self.attn = DistanceAttention(spec)


class PatchEncoder(nn.Module):
    """The pixels of a patch to a vector of the patch, and one for each pixel."""

    def __init__(self, spec: BlockSpec, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.blocks = nn.Sequential(*(DistanceBlock(spec) for _ in range(depth)))
        self.norm = nn.LayerNorm(spec.dim, eps=spec.eps)

    def forward(self, pixels_bnd: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, dim) in raster order -> (B, dim) and (B, N, dim)."""
        x = with_class(pixels_bnd + square_codes(pixels_bnd, PIXEL_M), self.cls_token)
        x = self.norm(self.blocks(x))
        return x[:, 0], x[:, 1:]


class PositionQueries(nn.Module):
    """Attention whose queries are a learned vector and the place of a token, whatever it holds."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.distances = DistanceTable(dim // heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """(B, N, dim) -> (B, N, dim); ``step``: pixels from one patch to the next."""
        places = F.pad(square_codes(x[:, 1:], step), (0, 0, 1, 0))
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in ((self.query + places).expand(x.shape), self.k(x), self.v(x))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.distances(q))
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out


class PositionQueryBlock(nn.Module):
    """``x = attention(norm1 x)``, without the sum, then ``x + mlp(norm2 x)``."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.attn = PositionQueries(spec.dim, spec.heads)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.mlp = Mlp(spec)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        x = self.attn(self.norm1(x), step)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class AnySatEncoder(nn.Module):
    """``depth`` blocks within a patch, as many among patches; one more brings everything to its place."""

    def __init__(self, dim: int, depth: int, *, heads: int, channels: int) -> None:
        super().__init__()
        self.projector = PixelSeries(channels, (dim // 8, dim // 2, dim, 2 * dim, dim))
        self.patch_encoder = PatchEncoder(BlockSpec(dim, heads, eps=1e-5), depth)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        spec = BlockSpec(dim, heads, eps=1e-6)
        self.blocks = Blocks(spec, depth)
        self.last = PositionQueryBlock(spec)

    def forward(
        self, pixels_btchw: Tensor, days_bt: Tensor, *, patch_px: int, valid_btchw: Tensor | None = None
    ) -> AnySatFeatures:
        """A square image, its side a multiple of ``patch_px``; no norm at the end."""
        pixels = self.projector(pixels_btchw, days_bt, valid_btchw)
        batch, side, _, dim = pixels.shape
        cells, window = side // patch_px, (patch_px, patch_px)
        patches, pixels = self.patch_encoder(partition(pixels, window))
        x = patches.reshape(batch, cells * cells, dim)
        x = self.blocks(with_class(x + square_codes(x, patch_px), self.cls_token))
        x = self.last(x, patch_px)
        return AnySatFeatures(
            tile=x[:, 0],
            patches=x[:, 1:].reshape(batch, cells, cells, dim),
            pixels=merge(pixels, (side, side), window),
        )


def square_codes(x_bnd: Tensor, step: int) -> Tensor:
    """Codes of place (1, N, dim) for N tokens of a square in raster order, ``step`` from one to the next."""
    side = math.isqrt(x_bnd.shape[1])
    return sincos_2d(x_bnd.shape[-1], side, side, step=step).flatten(0, 1)[None].to(x_bnd.device)


def with_class(x_bnd: Tensor, cls_token: Tensor) -> Tensor:
    """``x_bnd`` after a class token."""
    return torch.cat([cls_token.expand(len(x_bnd), -1, -1), x_bnd], dim=1)
