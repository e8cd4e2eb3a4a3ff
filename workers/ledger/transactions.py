"""How the ledger's classes run their statements: one short transaction for each method."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, TextClause, text

from workers.ledger.errors import LedgerUnavailableError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Transactions")


@functools.lru_cache(maxsize=512)
def sql(statement: str) -> TextClause:
    """``statement`` with its parameters found, once for all calls."""
    return text(statement)


class Transactions(ABC):
    """Something that can open a transaction: the ledger from its pool, the leader on its one connection."""

    attempts: int = 2

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction that commits at the end of the block; raises the ledger's errors only."""


def transactional(method: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run ``method`` in a transaction of its own, handed to it as first argument.

    It is run a second time when the connection is lost (also while committing), so it must be
    harmless to repeat.
    """

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for left in reversed(range(self.attempts)):
            try:
                with self.transaction() as tx:
                    return method(self, tx, *args, **kwargs)
            except LedgerUnavailableError:
                if not left:
                    raise
        raise AssertionError("at least one attempt is made")

    return run


def once(method: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """Like :func:`transactional`, for methods that must not be repeated blindly."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.transaction() as tx:
            return method(self, tx, *args, **kwargs)

    return run
