"""A model with its settings, to be asked again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rsembed import api
from rsembed.core.embedding import Embedding
from rsembed.core.specs import Spatial, TemporalSpec
from rsembed.embedders.options import resolve_options
from rsembed.embedders.registry import REGISTRY

_CALL_KEYWORDS = frozenset(
    ("backend", "device", "sensor", "fetch", "modality", "output", "input_prep", "batch_size", "recipe", "context",
     "precision", "threads", "fetch_workers", "catalog", "cache", "on_error")
)  # fmt: skip


class Model:
    """``Model("name", backend="stac", ...)``: the keywords of :func:`rsembed.get_embeddings_batch`, given once.

    The model's own options are checked here, so that a misspelt one does not wait for the first
    call. Raises ModelError.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = REGISTRY.resolve(name)
        self._settings = settings
        options = {key: value for key, value in settings.items() if key not in _CALL_KEYWORDS}
        resolve_options(REGISTRY.get(name).card, options)

    def get_embedding(self, spatial: Spatial, *, temporal: TemporalSpec | None = None, **more: Any) -> Embedding:
        """The embedding of one place; see :func:`rsembed.get_embedding`."""
        return api.get_embedding(self.name, spatial=spatial, temporal=temporal, **(self._settings | more))

    def get_embeddings_batch(
        self, spatials: Sequence[Spatial], *, temporal: TemporalSpec | None = None, **more: Any
    ) -> list[Embedding]:
        """The embeddings of several places, in their order; see :func:`rsembed.get_embeddings_batch`."""
        return api.get_embeddings_batch(self.name, spatials=spatials, temporal=temporal, **(self._settings | more))

    def describe(self) -> dict[str, Any]:
        """What the model takes, gives and offers."""
        return api.describe_model(self.name)

    @staticmethod
    def list_models(include_aliases: bool = False) -> list[str]:
        """Ids of all models."""
        return api.list_models(include_aliases)

    def __repr__(self) -> str:
        given = "".join(f", {key}={value!r}" for key, value in self._settings.items())
        return f"Model({self.name!r}{given})"
