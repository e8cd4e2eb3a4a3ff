"""Walks an expression graph: ``{"result": name, "values": {name: node}}`` (REST reference, "Expression", "ValueNode").

Every named value is computed once, inside mapped functions once for each call that it depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsembed.testing.earth_engine.errors import EarthEngineError
from rsembed.testing.earth_engine.signatures import call
from rsembed.testing.earth_engine.values import Collection, Function, Image

Node = Mapping[str, Any]
"""A node as it was read: JSON, the one place where values of any type are allowed in."""


class _Scope:
    """Arguments of one call, and what was computed of them."""

    def __init__(self, outer: _Scope | None, arguments: Mapping[str, object]) -> None:
        self.outer = outer
        self.arguments = arguments
        self.known: dict[str, object] = {}

    def where(self, free: frozenset[str]) -> _Scope:
        """The innermost scope that binds one of ``free``; the outermost where none does."""
        here = self
        while here.outer is not None and not free & here.arguments.keys():
            here = here.outer
        return here

    def argument(self, name: str) -> object:
        here: _Scope | None = self
        while here is not None:
            if name in here.arguments:
                return here.arguments[name]
            here = here.outer
        raise EarthEngineError(f"Unbound argument reference '{name}'.")


class Expression:
    """An expression over the collections of a server."""

    def __init__(self, document: Node, collections: Mapping[str, Collection]) -> None:
        try:
            self._values: Mapping[str, Node] = document["values"]
            self._result: str = document["result"]
        except (KeyError, TypeError) as exc:
            raise EarthEngineError("Invalid expression: it has no 'values' or no 'result'.") from exc
        self._collections = collections
        self._free: dict[str, frozenset[str]] = {}

    def value(self) -> object:
        """What the expression is worth; images in it are lazy. Raises EarthEngineError."""
        return self._named(self._result, _Scope(None, {}))

    def _named(self, name: str, scope: _Scope) -> object:
        if name not in self._values:
            raise EarthEngineError(f"Invalid expression: there is no value '{name}'.")
        home = scope.where(self._free_of(name))
        if name not in home.known:
            home.known[name] = self._node(self._values[name], home)
        return home.known[name]

    def _free_of(self, name: str) -> frozenset[str]:
        """Arguments of functions around the value ``name`` that it depends on."""
        if name not in self._free:
            self._free[name] = self._free_in(self._values[name])
        return self._free[name]

    def _free_in(self, node: Node) -> frozenset[str]:
        kind, content = _only(node)
        if kind == "argumentReference":
            return frozenset({content})
        if kind == "valueReference":
            return self._free_of(content)
        if kind == "functionDefinitionValue":
            return self._free_of(content["body"]) - frozenset(content["argumentNames"])
        inner: list[Node] = []
        if kind == "arrayValue":
            inner = list(content.get("values", []))
        elif kind == "dictionaryValue":
            inner = list(content.get("values", {}).values())
        elif kind == "functionInvocationValue":
            inner = list(content.get("arguments", {}).values())
        return frozenset().union(*(self._free_in(one) for one in inner))

    def _node(self, node: Node, scope: _Scope) -> object:
        kind, content = _only(node)
        if kind == "constantValue":
            return content
        if kind == "integerValue":
            return int(content)
        if kind == "valueReference":
            return self._named(content, scope)
        if kind == "argumentReference":
            return scope.argument(content)
        if kind == "arrayValue":
            return [self._node(one, scope) for one in content.get("values", [])]
        if kind == "dictionaryValue":
            return {key: self._node(one, scope) for key, one in content.get("values", {}).items()}
        if kind == "functionDefinitionValue":
            return self._function(content, scope)
        if kind == "functionInvocationValue":
            return self._invoked(content, scope)
        raise EarthEngineError(f"Invalid expression: unknown kind of value '{kind}'.")

    def _function(self, content: Node, scope: _Scope) -> Function:
        names: list[str] = content["argumentNames"]

        def called(*arguments: object) -> object:
            return self._named(content["body"], _Scope(scope, dict(zip(names, arguments, strict=True))))

        return called

    def _invoked(self, content: Node, scope: _Scope) -> object:
        if "functionReference" in content:
            raise EarthEngineError("Functions passed by reference are not understood by the local server.")
        name = content["functionName"]
        given = {key: self._node(one, scope) for key, one in content.get("arguments", {}).items()}
        if name == "ImageCollection.load":
            return self._collection(str(given.get("id")))
        if name == "Image.load":
            return self._image(str(given.get("id")))
        return call(name, given)

    def _collection(self, name: str) -> Collection:
        found = self._collections.get(name)
        if found is None:
            raise EarthEngineError(
                f"ImageCollection.load: ImageCollection asset '{name}' not found (does not exist or caller does not "
                f"have access). The local server holds {', '.join(sorted(self._collections)) or 'none'}."
            )
        return found

    def _image(self, name: str) -> Image:
        folder, _, index = name.rpartition("/")
        for image in self._collection(folder).images if folder in self._collections else ():
            if image.properties.get("system:index") == index:
                return image
        raise EarthEngineError(
            f"Image.load: Image asset '{name}' not found (does not exist or caller does not have access)."
        )


def _only(node: Node) -> tuple[str, Any]:
    if not isinstance(node, Mapping) or len(node) != 1:
        raise EarthEngineError(f"Invalid expression: a value must have one kind, got {str(node)[:80]}.")
    return next(iter(node.items()))
