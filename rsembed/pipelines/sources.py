"""Whether a source of imagery can serve the models of a run, and what to do where it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe
from rsembed.embedders.base import EmbedderBase
from rsembed.providers.base import ProviderBase
from rsembed.providers.collections import canonical_bands


def check_source(
    provider: ProviderBase, recipe: FetchRecipe, bands: Sequence[str], wanting: Mapping[str, EmbedderBase]
) -> None:
    """Raise what ``provider.check`` raises; where it can never serve ``recipe``, the error names the ways out.

    ``wanting``: the embedders that want it, by their labels.
    """
    try:
        provider.check(recipe, bands)
    except ProviderError as exc:
        # Credentials or a lost connection: another request would not help. A product lies where it lies.
        if type(exc) is not ProviderError or recipe.product is not None:
            raise
        ways = "; ".join(_ways_out(provider, recipe, list(wanting.values())))
        labels = ", ".join(wanting)
        raise ProviderError(
            f"{exc}. It is {labels} that want{'s' if len(wanting) == 1 else ''} {recipe.collection}. Ways out: {ways}"
        ) from exc


def _ways_out(provider: ProviderBase, recipe: FetchRecipe, embedders: Sequence[EmbedderBase]) -> Iterator[str]:
    """What would help, the nearest first."""
    for other in embedders[0].card.steps:
        served = [found for embedder in embedders if (found := _served(provider, embedder, other)) is not None]
        if len(served) == len(embedders) and recipe.collection not in served:
            names = " and ".join(sorted(set(served)))
            yield f"recipe {other!r}, which takes {names}"
    if provider.name != "gee" and "/" in recipe.collection:
        yield "backend 'gee', which has the collections of Earth Engine"
    if provider.name != "raster":
        yield f"backend 'raster' with files of your own that hold {recipe.collection}"
    yield "a sensor (--collection and --bands) with a collection that is there, its bands in the model's order"


def _served(provider: ProviderBase, embedder: EmbedderBase, recipe: str) -> str | None:
    """The collection that ``embedder`` would take with another recipe, unless the source can never serve that."""
    if recipe == embedder.config.recipe or recipe not in embedder.card.steps:
        return None
    other = type(embedder)(replace(embedder.config, recipe=recipe))  # type: ignore[arg-type]  # one of the card's
    wanted = other.fetch_recipe()
    try:
        provider.check(wanted, canonical_bands(wanted.collection, other.contract.bands))
    except ProviderError as exc:
        if type(exc) is ProviderError:
            return None
    return wanted.collection
