"""From what a user asked of a model to a configuration that its card allows."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar, get_args

from rsembed.core.card import RECIPES, ModelCard, Option, OptionValue
from rsembed.core.errors import ModelError
from rsembed.core.specs import FetchSpec, InputPrepSpec, OutputSpec, SensorSpec
from rsembed.embedders.base import EmbedderConfig, Precision
from rsembed.tools.tiling import Context

OPTION_ALIASES: Mapping[str, str] = {"n_frames": "max_frames"}
"""Other names of options; used where a card has the second and not the first."""

T = TypeVar("T", bound=str)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def resolve_options(card: ModelCard, given: Mapping[str, object]) -> dict[str, OptionValue]:
    """All options of ``card`` with the ``given`` values checked, and defaults for the rest.

    Text is read as the option's kind (``"4"`` for an int), so that values from a command line
    can be passed on. Raises ModelError for an unknown option or a value that is not accepted.
    """
    known = {option.name: option for option in card.options}
    resolved = {name: option.default for name, option in known.items()}
    taken: dict[str, str] = {}
    for asked, value in given.items():
        aliases = {**OPTION_ALIASES, "variant": card.variant_option}
        name = asked if asked in known else aliases.get(asked, asked)
        if name not in known:
            raise ModelError(_unknown_option(card, asked, list(known)))
        if name in taken:
            raise ModelError(f"{card.id}: {asked} and {taken[name]} are the same option; give one of them")
        taken[name] = asked
        resolved[name] = _checked(card.id, known[name], value)
    return resolved


def make_config(
    card: ModelCard,
    *,
    recipe: str = "authors",
    modality: str | None = None,
    output: OutputSpec | None = None,
    precision: str = "fp32",
    context: str = "native",
    input_prep: InputPrepSpec | None = None,
    options: Mapping[str, object] | None = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
) -> EmbedderConfig:
    """A configuration of the model behind ``card``; raises ModelError for whatever it does not offer."""
    output = output or OutputSpec()
    check_output(card, output)
    modality = modality or card.default_modality
    recipes = tuple(name for name in RECIPES if name in card.steps)
    precisions: tuple[Precision, ...] = get_args(Precision)
    contexts: tuple[Context, ...] = get_args(Context)
    return EmbedderConfig(
        options=resolve_options(card, options or {}),
        recipe=_one_of(card.id, "recipe", recipe, recipes),
        modality=_one_of(card.id, "modality", modality, tuple(card.inputs)),
        output=output,
        precision=_one_of(card.id, "precision", precision, precisions),
        context=_one_of(card.id, "context", context, contexts),
        input_prep=input_prep or InputPrepSpec(),
        sensor=sensor,
        fetch=fetch,
    )


def check_output(card: ModelCard, output: OutputSpec) -> None:
    """Raise ModelError when the model has no such output."""
    if output.mode not in card.outputs:
        raise ModelError(f"{card.id} gives {' or '.join(card.outputs)}, not {output.mode!r}")
    if output.mode == "pooled" and output.pooling != "mean" and card.pooling == "vector":
        raise ModelError(
            f"{card.id} gives its network's own image vector, so there is nothing to reduce by "
            f"pooling={output.pooling!r}; leave pooling at 'mean', or ask for a grid and reduce that"
        )


def _one_of(model: str, what: str, value: str, choices: Sequence[T]) -> T:
    for choice in choices:
        if value == choice:
            return choice
    raise ModelError(f"{model}: {what} must be one of {', '.join(choices)}; got {value!r}")


def _unknown_option(card: ModelCard, asked: str, known: list[str]) -> str:
    if not known:
        return f"{card.id} has no options; got {asked!r}"
    near = difflib.get_close_matches(asked, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{card.id} has no option {asked!r}; {hint}accepted: {', '.join(known)}"


def _checked(model: str, option: Option, value: object) -> OptionValue:
    where = f"{model}: option {option.name}"
    if value is None or (isinstance(value, str) and value.strip().lower() == "none" and option.default is None):
        if option.default is None:
            return None
        raise ModelError(f"{where} needs a value ({option.kind}), got None")
    typed: OptionValue = _typed(where, option, value)
    if isinstance(typed, str):
        key = typed.strip()
        aliases = {alias.lower(): target for alias, target in option.aliases.items()}
        spelled = {str(choice).lower(): choice for choice in option.choices}
        typed = aliases.get(key.lower(), spelled.get(key.lower(), key))
    if option.choices and typed not in option.choices:
        accepted = ", ".join(str(choice) for choice in option.choices)
        raise ModelError(f"{where} must be one of {accepted}; got {value!r}")
    if isinstance(typed, (int, float)) and not isinstance(typed, bool):
        low = -math.inf if option.minimum is None else option.minimum
        high = math.inf if option.maximum is None else option.maximum
        if not low <= typed <= high:
            raise ModelError(f"{where} must lie in {low:g}..{high:g}, got {value!r}")
    return typed


def _typed(where: str, option: Option, value: object) -> str | int | float | bool:
    wrong = ModelError(f"{where} must be of kind {option.kind}, got {value!r}")
    if option.kind == "str":
        if isinstance(value, str):
            return value
        raise wrong
    if option.kind == "bool":
        word = str(value).strip().lower()
        if isinstance(value, (bool, str)) and word in _TRUE + _FALSE:
            return word in _TRUE
        raise wrong
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wrong
    try:
        number = float(value)
    except ValueError:
        raise wrong from None
    if not math.isfinite(number) or (option.kind == "int" and number != int(number)):
        raise wrong
    return int(number) if option.kind == "int" else number
