"""A model with its settings, to be asked again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from numpy.typing import NDArray

from rsembed import api
from rsembed.core.card import OptionValue, Recipe
from rsembed.core.embedding import Embedding
from rsembed.core.specs import FetchSpec, OutputSpec, SensorSpec, Spatial, TemporalSpec
from rsembed.embedders.base import Precision
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.keywords import Backend, CallKeywords, CallSettings, InputPrep, OnError
from rsembed.tools.tiling import Context


class Model:
    """``Model("name", backend="stac", ...)``: the keywords of :func:`rsembed.get_embeddings_batch`, given once.

    Keywords and the model's own options are checked here, so that a misspelt one does not wait for
    the first call; a call may change them. Nothing is loaded or opened yet. Raises ModelError or SpecError.
    """

    def __init__(
        self,
        name: str,
        *,
        sensor: SensorSpec | None = None,
        fetch: FetchSpec | None = None,
        modality: str | None = None,
        output: OutputSpec = OutputSpec(),  # noqa: B008 - frozen value
        backend: Backend | None = "auto",
        device: str = "auto",
        input_prep: InputPrep | None = None,
        batch_size: int | None = None,
        recipe: Recipe = "authors",
        context: Context | None = None,
        precision: Precision = "fp32",
        threads: int = 1,
        fetch_workers: int = 8,
        catalog: str | Path | None = None,
        cache: bool = True,
        on_error: OnError = "raise",
        **options: OptionValue,
    ) -> None:
        self.name = REGISTRY.resolve(name)
        self._call = CallSettings(
            sensor=sensor,
            fetch=fetch,
            modality=modality,
            output=output,
            backend=backend,
            device=device,
            input_prep=input_prep,
            batch_size=batch_size,
            recipe=recipe,
            context=context,
            precision=precision,
            threads=threads,
            fetch_workers=fetch_workers,
            catalog=catalog,
            cache=cache,
            on_error=on_error,
            options=options,
        )
        self._call.request(self.name)

    def get_embedding(
        self,
        spatial: Spatial,
        *,
        temporal: TemporalSpec | None = None,
        input_chw: NDArray[Any] | None = None,
        **changes: Unpack[CallKeywords],
    ) -> Embedding:
        """The embedding of one place; see :func:`rsembed.get_embedding`."""
        return api.embed_one(self.name, spatial, temporal, self._call.changed(changes), input_chw)

    def get_embeddings_batch(
        self,
        spatials: Sequence[Spatial],
        *,
        temporal: TemporalSpec | None = None,
        input_chws: Sequence[NDArray[Any]] | None = None,
        **changes: Unpack[CallKeywords],
    ) -> list[Embedding]:
        """The embeddings of several places, in their order; see :func:`rsembed.get_embeddings_batch`."""
        return api.embed_several(self.name, spatials, temporal, self._call.changed(changes), input_chws)

    def describe(self) -> dict[str, Any]:
        """What the model takes, gives and offers."""
        return api.describe_model(self.name)

    @staticmethod
    def list_models(include_aliases: bool = False) -> list[str]:
        """Ids of all models."""
        return api.list_models(include_aliases)

    def __repr__(self) -> str:
        given = "".join(f", {key}={value!r}" for key, value in self._call.given().items())
        return f"Model({self.name!r}{given})"
