from __future__ import annotations

import re

import pytest

from rsembed.core import errors
from rsembed.core.errors import (
    AuthError,
    CollectionGapError,
    ModelError,
    ProviderError,
    QuotaError,
    RowError,
    RSEmbedError,
    SpecError,
    TooComplexError,
    TransientProviderError,
    WeightsError,
    classify,
    is_transient,
)

TREE = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RSEmbedError)]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (SpecError("x"), "bad_request"), (RowError("x"), "bad_row"), (ModelError("x"), "model"),
        (WeightsError("x"), "weights"), (ProviderError("x"), "provider"), (AuthError("x"), "auth"),
        (TooComplexError("x"), "too_complex"), (CollectionGapError("x"), "collection_gap"),
        (TransientProviderError("x"), "transient"), (QuotaError("x"), "quota"), (TimeoutError(), "transient"),
        (ConnectionResetError(), "transient"), (MemoryError(), "out_of_memory"), (KeyError("x"), "internal"),
        (ValueError("x"), "internal"),
    ],
)  # fmt: skip
def test_classify_when_an_error_is_recorded_then_its_word_is_known(error: Exception, word: str) -> None:
    assert classify(error) == word


def test_is_transient_when_asking_again_may_help_then_true_and_only_then() -> None:
    assert all(map(is_transient, (TransientProviderError("x"), QuotaError("x"), TimeoutError(), ConnectionError())))
    assert not any(
        map(is_transient, (ProviderError("x"), AuthError("x"), TooComplexError("x"), ValueError(), OSError()))
    )


def test_tree_when_drawn_in_the_docstring_then_every_class_is_in_it() -> None:
    drawn = set(re.findall(r"\b(\w+Error)\b", errors.__doc__ or ""))
    assert drawn == {each.__name__ for each in TREE}


def test_spec_error_when_caught_as_value_error_then_it_is_one() -> None:
    with pytest.raises(ValueError, match="wrong"):
        raise RowError("wrong")
