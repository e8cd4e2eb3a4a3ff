"""The models by name; ``@register("id")`` adds one from outside the package."""

from __future__ import annotations

from rsembed.core.registry import LazyRegistry
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.catalog import ALIASES, MODEL_SPECS

REGISTRY: LazyRegistry[EmbedderBase] = LazyRegistry("model", MODEL_SPECS, ALIASES)
register = REGISTRY.register
"""Class decorator, ``@register("id")``: the class is a model of that name from now on; a later one wins."""
