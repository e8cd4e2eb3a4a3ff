"""A model's card as plain JSON, for people and for programs without the package."""

from __future__ import annotations

from typing import Any

from rsembed.core.card import InputContract, ModelCard, Option, WeightsFile
from rsembed.core.serialization import to_json
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.catalog import ALIASES
from rsembed.embedders.options import make_config

BACKENDS = {"onthefly": ("gee", "stac", "raster"), "precomputed": ("gee", "raster", "stac", "local")}


def card_backends(card: ModelCard) -> tuple[str, ...]:
    """Backends under which the model runs, as far as its card knows (plug-ins add others)."""
    return card.backends or BACKENDS[card.kind]


def describe_model_class(cls: type[EmbedderBase]) -> dict[str, Any]:
    """What the card of ``cls`` says, and what follows from it for each recipe.

    ``fetch``: which imagery it takes for each modality. ``pooled``: what the pooled vector is, ``tokens`` or
    ``vector`` as in the card.
    """
    card = cls.card
    fetch: dict[str, Any] = {}
    pooled: dict[str, str] = {}
    for recipe in card.steps:
        made = {modality: cls(make_config(card, recipe=recipe, modality=modality)) for modality in card.inputs}
        fetch[recipe] = {modality: to_json(embedder.fetch_recipe()) for modality, embedder in made.items()}
        pooled[recipe] = "vector" if made[card.default_modality].own_vector else "tokens"
    return {**describe_card(card), "fetch": fetch, "pooled": pooled}


def describe_card(card: ModelCard) -> dict[str, Any]:
    """Everything ``card`` says. A new dictionary every time: the caller may change it."""
    contract = card.inputs[card.default_modality]
    return {
        "id": card.id,
        "aliases": sorted(alias for alias, name in ALIASES.items() if name == card.id),
        "type": card.kind,
        "title": card.title,
        "summary": card.summary,
        "paper": card.paper,
        "source": card.source,
        "backend": list(card_backends(card)),
        "inputs": {modality: _inputs(given) for modality, given in card.inputs.items()},
        "input_bands": list(contract.bands),
        "output": list(card.outputs),
        "pooling": card.pooling,
        "dims": dict(card.dims),
        "options": [_option(option) for option in card.options],
        "model_config": {
            option.name: {
                "type": option.kind,
                "default": option.default,
                "choices": list(option.choices) or None,
                "description": option.help,
            }
            for option in card.options
        },
        "defaults": {
            **{option.name: option.default for option in card.options},
            "modality": card.default_modality,
            "image_size": contract.image_size,
            "scale_m": contract.scale_m,
            "composite": contract.composite,
            "fill_value": contract.fill_value,
        },
        "weights": {variant: _weights(file, card) for variant, file in card.weights.items()},
        "licence": {
            "name": card.licence.name,
            "commercial": card.licence.commercial,
            "attribution": card.licence.attribution,
        },
        "recipes": {
            recipe: [{"text": step.text, "status": step.status} for step in steps]
            for recipe, steps in card.steps.items()
        },
        "variant_option": card.variant_option if len(card.dims) > 1 else None,
        "batch_size": dict(card.batch_size),
        "numerics_version": card.numerics_version,
        "notes": list(card.notes),
    }


def _inputs(contract: InputContract) -> dict[str, Any]:
    frames = contract.frames
    return {
        "collection": contract.collection,
        "bands": list(contract.bands),
        "scale_m": contract.scale_m,
        "image_size": contract.image_size,
        "any_size": contract.any_size,
        "frames": {
            "mode": frames.mode,
            "frame_days": frames.frame_days,
            "max_frames": frames.max_frames,
            "n_frames": frames.n_frames,
            "bins": frames.bins,
            "round_up": frames.round_up,
            "years": list(frames.years),
            "words": str(frames),
        },
        "composite": contract.composite,
        "orbit": contract.orbit,
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "type": option.kind,
        "default": option.default,
        "choices": list(option.choices),
        "minimum": option.minimum,
        "maximum": option.maximum,
        "aliases": dict(option.aliases),
        "help": option.help,
    }


def _weights(file: WeightsFile, card: ModelCard) -> dict[str, Any]:
    return {
        "repo": file.repo,
        "file": file.file,
        "revision": file.revision,
        "url": file.url,
        "sha256": file.sha256,
        "other_files": list(file.other_files),
        "size_bytes": file.size_bytes,
        "licence": card.licence.name,
        "commercial": card.licence.commercial,
    }
