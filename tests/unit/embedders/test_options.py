"""What users may ask of a model, and what they are told when they may not."""

from __future__ import annotations

import pytest

from rsembed.core.card import InputContract, Licence, ModelCard, Option, Step
from rsembed.core.errors import ModelError
from rsembed.core.specs import OutputSpec
from rsembed.embedders.options import make_config, resolve_options


def card(**changes: object) -> ModelCard:
    """A small card; every field has a value."""
    facts: dict[str, object] = {
        "id": "tiny",
        "title": "Tiny",
        "summary": "",
        "paper": "",
        "source": "",
        "kind": "onthefly",
        "inputs": {"s2": InputContract("COLLECTION", ("B4",), 10, 32)},
        "outputs": ("pooled", "grid"),
        "pooling": "tokens",
        "dims": {"": 4},
        "licence": Licence("MIT", "yes", ""),
        "steps": {"authors": (Step("nothing", "verified"),)},
        "options": (
            Option("variant", "str", "tiny_v1", "", choices=("tiny_v1", "tiny_v2"), aliases={"v2": "tiny_v2"}),
            Option("max_frames", "int", 4, "", minimum=1, maximum=8),
            Option("gain", "float", None, ""),
            Option("flip", "bool", False, ""),
        ),
    }
    return ModelCard(**{**facts, **changes})  # type: ignore[arg-type]  # facts are typed by the card itself


def test_resolve_options_when_nothing_is_given_then_defaults() -> None:
    assert resolve_options(card(), {}) == {"variant": "tiny_v1", "max_frames": 4, "gain": None, "flip": False}


@pytest.mark.parametrize("spelling", ["tiny_v2", "v2", "V2", " Tiny_V2 "])
def test_resolve_options_when_a_choice_is_spelled_otherwise_then_it_is_found(spelling: str) -> None:
    assert resolve_options(card(), {"variant": spelling})["variant"] == "tiny_v2"


def test_resolve_options_when_values_are_text_then_they_are_read_by_kind() -> None:
    resolved = resolve_options(card(), {"max_frames": "3", "gain": "0.5", "flip": "yes"})
    assert (resolved["max_frames"], resolved["gain"], resolved["flip"]) == (3, 0.5, True)


def test_resolve_options_when_n_frames_is_given_then_max_frames_is_meant() -> None:
    assert resolve_options(card(), {"n_frames": 2})["max_frames"] == 2


def test_resolve_options_when_both_names_of_an_option_are_given_then_error() -> None:
    with pytest.raises(ModelError, match="same option"):
        resolve_options(card(), {"n_frames": 2, "max_frames": 3})


def test_resolve_options_when_unknown_then_the_nearest_name_is_offered() -> None:
    with pytest.raises(ModelError, match=r"did you mean variant.*accepted: variant, max_frames, gain, flip"):
        resolve_options(card(), {"variantt": "tiny_v1"})


def test_resolve_options_when_a_model_has_none_then_it_says_so() -> None:
    with pytest.raises(ModelError, match="has no options"):
        resolve_options(card(options=()), {"variant": "x"})


@pytest.mark.parametrize(
    "given",
    [
        {"variant": "tiny_v3"},
        {"max_frames": 0},
        {"max_frames": 9},
        {"max_frames": 2.5},
        {"max_frames": "two"},
        {"max_frames": True},
        {"max_frames": None},
        {"gain": "nan"},
        {"flip": "perhaps"},
        {"flip": 1},
        {"variant": 2},
    ],
    ids=str,
)
def test_resolve_options_when_a_value_is_not_accepted_then_error_names_the_option(given: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=f"option {next(iter(given))} "):
        resolve_options(card(), given)


@pytest.mark.parametrize(
    "wrong",
    [{"recipe": "mine"}, {"recipe": "rs-embed"}, {"modality": "s1"}, {"precision": "fp8"}, {"context": "some"}],
    ids=str,
)
def test_make_config_when_a_setting_is_not_offered_then_error_lists_what_is(wrong: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="must be one of"):
        make_config(card(), **wrong)  # type: ignore[arg-type]  # only text is passed


def test_make_config_when_the_model_has_no_grid_then_error() -> None:
    with pytest.raises(ModelError, match="gives pooled, not 'grid'"):
        make_config(card(outputs=("pooled",)), output=OutputSpec.grid())


def test_make_config_when_a_vector_model_is_asked_for_max_then_error_says_why() -> None:
    with pytest.raises(ModelError, match="nothing to reduce"):
        make_config(card(pooling="vector"), output=OutputSpec.pooled("max"))


def test_make_config_when_nothing_is_asked_then_authors_recipe_in_fp32() -> None:
    config = make_config(card())
    assert (config.recipe, config.precision, config.modality, config.context) == ("authors", "fp32", "s2", "native")


def test_resolve_options_when_the_variant_goes_by_another_name_then_both_are_understood() -> None:
    sizes = card(options=(Option("size", "str", "s", "", choices=("s", "m")),), variant_option="size")
    assert resolve_options(sizes, {"variant": "m"}) == resolve_options(sizes, {"size": "m"}) == {"size": "m"}
    with pytest.raises(ModelError, match="same option"):
        resolve_options(sizes, {"variant": "m", "size": "s"})
