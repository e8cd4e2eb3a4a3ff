"""Our docstrings point at each other as Sphinx does (:func:`name`); here these become the site's links."""

from __future__ import annotations

import re

import griffe

ROLE = re.compile(r":(?P<role>func|class|meth|attr|data|mod):`(?P<target>[^`]+)`")
LITERAL = re.compile(r"^::$", flags=re.MULTILINE)
"""Announces an indented block, which Markdown needs not."""


class Roles(griffe.Extension):
    """Links where the reference has the name, code where it has not."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = LITERAL.sub("", obj.docstring.value)
            obj.docstring.value = ROLE.sub(lambda found: linked(found["target"], obj), text)


def linked(target: str, near: griffe.Object) -> str:
    """``target`` as a link that may lead nowhere, with the name as its text; ``~`` asks for its last part alone."""
    plain = target.removeprefix("~")
    shown = plain if plain == target else plain.rpartition(".")[2]
    return f'<autoref identifier="{full_name(plain, near)}" optional><code>{shown}</code></autoref>'


def full_name(target: str, near: griffe.Object) -> str:
    """The dotted path of ``target`` as ``near`` means it."""
    head, dot, rest = target.partition(".")
    scope: griffe.Object | griffe.Module | None = near
    while scope is not None:
        if head in scope.members:
            return f"{scope.members[head].canonical_path}{dot}{rest}"
        scope = scope.parent
    return target
