"""Models with networks of 32 numbers and no file, for tests of everything around them; registered on import."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from rsembed.core.card import ModelCard
from rsembed.embedders.nets.clay_net import ClayEncoder
from rsembed.embedders.nets.galileo_net import GalileoEncoder
from rsembed.embedders.nets.olmoearth_net import OlmoEarthEncoder
from rsembed.embedders.nets.prithvi_net import PrithviEncoder
from rsembed.embedders.onthefly import clay, galileo, olmoearth, prithvi
from rsembed.embedders.registry import register

DIM = 32


def seeded(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def small(card: ModelCard) -> ModelCard:
    """The card of a network of 32 numbers that needs no file."""
    return replace(card, id=f"small-{card.id}", dims=dict.fromkeys(card.dims, DIM), weights={})


@register("small-prithvi")
class SmallPrithvi(prithvi.Prithvi):
    card = small(prithvi.CARD)

    def build(self) -> nn.Module:
        return seeded(PrithviEncoder(DIM, 1, heads=2, patch_px=16))


@register("small-galileo")
class SmallGalileo(galileo.Galileo):
    card = small(galileo.CARD)

    def build(self) -> nn.Module:
        groups = {"S1": 2, "S2_RGB": 3, "S2_Red_Edge": 3, "S2_NIR_10m": 1, "S2_NIR_20m": 1, "S2_SWIR": 2}
        return seeded(GalileoEncoder(DIM, 1, heads=2, groups=groups))


@register("small-olmoearth")
class SmallOlmoEarth(olmoearth.OlmoEarth):
    card = small(olmoearth.CARD)

    def build(self) -> nn.Module:
        sets = {"sentinel2_l2a": (12,), "sentinel1": (2,)}
        return seeded(OlmoEarthEncoder(DIM, 1, heads=2, band_sets=sets, pixel_hidden=4, rotary=True))


@register("small-clay")
class SmallClay(clay.Clay):
    card = small(clay.CARD)

    def build(self) -> nn.Module:
        return seeded(ClayEncoder(DIM, 1, heads=2, head_dim=16, hidden=64))


PRITHVI, GALILEO = "small-prithvi:image_size=32,max_stride_days=3660", "small-galileo:patch_size=16"
OLMOEARTH, CLAY = "small-olmoearth:image_size=32,patch_size=8", "small-clay"
ALL = (PRITHVI, GALILEO, OLMOEARTH, CLAY)
"""Requests that keep them fast."""
