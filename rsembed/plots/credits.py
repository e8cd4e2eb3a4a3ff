"""Whose model and whose imagery a picture shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsembed.core.errors import ModelError
from rsembed.embedders.registry import REGISTRY


def model_credit(licence: Mapping[str, Any]) -> str:
    """One phrase of a licence as manifests hold it (``name``, ``attribution``)."""
    name, attribution = (str(licence.get(key) or "").replace("none", "") for key in ("name", "attribution"))
    if not name or name in attribution or name.startswith("no "):
        return attribution
    return f"{attribution} ({name})" if attribution else name


def run_credits(manifest: Mapping[str, Any], label: str, model: str) -> tuple[str, ...]:
    """What has to be said of one model of a run: what its manifest says, else what the model's card does."""
    licence = (manifest.get("licences") or {}).get(label)
    imagery = manifest.get("attribution") or []
    of_model = model_credit(licence) if licence else _card_credit(model)
    of_imagery = [imagery] if isinstance(imagery, str) else imagery
    return tuple(str(phrase) for phrase in (of_model, *of_imagery) if phrase)


def embedding_credits(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What has to be said of an embedding, as far as its meta tells: of its model, and of its imagery."""
    licence, said = meta.get("licence") or {}, meta.get("attribution") or _card_credit(str(meta.get("model") or ""))
    phrases = [said] if isinstance(said, str) else [str(each) for each in said]
    if isinstance(licence, Mapping):
        of_model = model_credit(licence)
        rest = [phrase for phrase in phrases if phrase and phrase not in of_model]
        return (of_model, *rest) if of_model else tuple(rest)
    return tuple(filter(None, [*phrases, f"licence: {licence}"]))


def _card_credit(model: str) -> str:
    """Of a model's card; empty for one that nobody knows here (of a plug-in that is not loaded)."""
    try:
        licence = REGISTRY.get(model).card.licence
    except ModelError:
        return ""
    return model_credit({"name": licence.name, "attribution": licence.attribution})
