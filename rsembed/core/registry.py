"""A registry of classes by name: imports a class on first use and keeps the cause when that fails.

It knows nothing of models; the table of names is handed in (``embedders/catalog.py``).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from rsembed.core.errors import ModelError, UnknownModelError

T = TypeVar("T")


class LazyRegistry(Generic[T]):
    """Name -> class, where classes are imported when first asked for.

    ``table`` maps an id to (module, class name); ``aliases`` other names to ids. Names are
    stripped and case-insensitive. A class added by :meth:`register` wins over the table.
    """

    def __init__(self, what: str, table: Mapping[str, tuple[str, str]], aliases: Mapping[str, str]) -> None:
        self._what = what
        self._table = dict(table)
        self._aliases = {alias.lower(): target for alias, target in aliases.items()}
        self._registered: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a class known as ``name`` (a later registration wins)."""

        def add(cls: type[T]) -> type[T]:
            self._registered[name.strip().lower()] = cls
            return cls

        return add

    def unregister(self, name: str) -> None:
        """Take back what was registered as ``name``; a name of the table is imported anew when asked for."""
        self._registered.pop(name.strip().lower(), None)

    def names(self, *, include_aliases: bool = False) -> list[str]:
        """Known ids, sorted; independent of what has been imported."""
        found = set(self._table) | set(self._registered)
        return sorted(found | set(self._aliases)) if include_aliases else sorted(found)

    def resolve(self, name: str) -> str:
        """The id behind ``name``; raises UnknownModelError with the nearest names."""
        key = str(name).strip().lower()
        key = self._aliases.get(key, key)
        if key in self._registered or key in self._table:
            return key
        near = difflib.get_close_matches(key, self.names(include_aliases=True), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownModelError(f"no {self._what} named {name!r}; {hint}known: {', '.join(self.names())}")

    def get(self, name: str) -> type[T]:
        """The class behind ``name``, imported if need be.

        Raises ModelError, chained to the import's own cause, when the import fails; a later
        call tries again.
        """
        key = self.resolve(name)
        if key in self._registered:
            return self._registered[key]
        module_name, class_name = self._table[key]
        try:
            module = importlib.import_module(module_name)
            found: type[T] = getattr(module, class_name)
        except Exception as exc:  # whatever a model's file raises is told as its own cause; Python forgets the module
            raise ModelError(f"{self._what} {key!r} could not be imported from {module_name}: {exc}") from exc
        self._registered[key] = found
        return found

    def forget(self) -> int:
        """Drop what was imported (not the table); returns how many classes were dropped."""
        imported = [name for name in self._registered if name in self._table]
        for name in imported:
            del self._registered[name]
        return len(imported)
