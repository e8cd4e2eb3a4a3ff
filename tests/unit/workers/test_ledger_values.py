"""Values of the ledger: marks, tokens, texts."""

from __future__ import annotations

import json

import pytest

from rsembed.pipelines.checkpoint import FailureRecord
from workers.ledger.errors import LedgerError, LedgerUnavailableError
from workers.ledger.events import clean, to_text
from workers.ledger.failure_rows import failures_from_json, failures_json
from workers.ledger.records import Marks
from workers.ledger.tokens import Token, new_key


@pytest.mark.parametrize(
    "marks",
    [
        Marks(),
        Marks(slots=(3, 4)),
        Marks(slots=(3,), deaths={3: 2, 11: 1}, batches=((0, 1), (2,)), out_of_memory=True),
    ],
)
def test_marks_when_stored_as_json_then_they_come_back_whole(marks: Marks) -> None:
    assert Marks.from_json(json.loads(json.dumps(marks.to_json()))) == marks


def test_marks_when_empty_then_nothing_is_stored_of_them() -> None:
    assert Marks().to_json() == {}
    assert Marks.from_json(None) == Marks()


def test_token_when_written_then_it_is_read_back_and_may_be_a_file_name() -> None:
    token = Token("f", 12, 1, 345, new_key())
    assert Token.parse(str(token)) == token
    assert str(token).replace("-", "").isalnum()


def test_token_when_made_twice_then_the_keys_differ() -> None:
    assert new_key() != new_key()


@pytest.mark.parametrize("text", ["", "f1-2-3", "x1-2-3-" + "0" * 32, "f1-2-3-" + "0" * 31])
def test_token_when_it_is_none_then_the_error_says_so(text: str) -> None:
    with pytest.raises(LedgerError, match="no token of a lease"):
        Token.parse(text)


def test_token_when_of_another_kind_then_it_is_refused() -> None:
    with pytest.raises(LedgerError, match="of kind i"):
        Token.parse(str(Token("f", 1, 2, 3, new_key())), "i")


def test_text_when_postgres_cannot_store_it_then_it_is_replaced() -> None:
    assert clean("a\0b\ud800c") == "a\ufffdb?c"


def test_json_when_it_holds_odd_text_then_it_comes_back_to_the_letter() -> None:
    assert json.loads(to_text({"a": "\0 \ud800 é"})) == {"a": "\0 \ud800 é"}


def test_failures_when_stored_with_their_file_then_they_come_back_whole() -> None:
    failures = (FailureRecord(3, 4, "p é\n\u2028", "fetch", "transient", "lost\n'connection' \\"),)
    assert failures_from_json(json.loads(to_text(failures_json(failures)))) == failures


def test_errors_when_raised_then_only_an_absent_database_is_worth_a_retry() -> None:
    assert LedgerUnavailableError.transient
    assert not LedgerError.transient
