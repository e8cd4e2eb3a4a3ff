"""From a checkpoint file to a network: read safely, rename, drop by name, load strictly.

A network either gets every tensor from the file or an error that names what is wrong; it never
runs on initial values.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence

# For the error class alone: what torch.load raises for a file it refuses. Nothing is unpickled here.
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from rsembed.core.errors import WeightsError

logger = logging.getLogger(__name__)
Rename = Sequence[tuple[str, str]] | Callable[[str], str]
_SHOWN = 5
_MAPPED_AT_ONCE = 1 << 23
"""Bytes of a mapped file that may be looked at before its pages are let go."""


def load_state_dict(
    path: str, wrap: Sequence[str] = (), safe_globals: Sequence[type] = (), *, bare: bool = False
) -> dict[str, Tensor]:
    """Name -> tensor of a ``.safetensors`` file or a file of ``torch.save``, on the CPU.

    ``wrap``: keys under which the state dict lies, outermost first. ``bare``: the tensors may as
    well lie at the top. ``safe_globals``: classes a file needs besides tensors. The file is mapped and
    its tensors are copied out of it (a file that changes later changes nothing), in as much memory
    as they take. Raises WeightsError when the file is damaged, holds anything else, or is wrapped in
    another way.
    """
    if path.endswith(".safetensors"):
        return _copied(lambda: _unwrapped(path, _read_safetensors(path), wrap, bare=bare))
    if not zipfile.is_zipfile(path):  # as before torch 1.6, or no checkpoint at all
        return _unwrapped(path, _read_torch(path, safe_globals, mapped=False), wrap, bare=bare)
    return _copied(lambda: _unwrapped(path, _read_torch(path, safe_globals, mapped=True), wrap, bare=bare))


def _copied(read: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of the tensors of a mapped file.

    Pages of the file that were looked at count as memory of the process until the file is mapped anew, so that is
    done every now and then: the weights are never there twice.
    """
    mapped = read()
    names, total = list(mapped), sum(tensor.nbytes for tensor in mapped.values())
    at_once = max(_MAPPED_AT_ONCE, total // 32)
    copies: dict[str, Tensor] = {}
    looked_at = 0
    for name in names:
        copies[name] = mapped[name].clone(memory_format=torch.contiguous_format)
        looked_at += copies[name].nbytes
        if looked_at > at_once:
            looked_at = 0
            mapped.clear()
            mapped = read()
    return copies


def _unwrapped(path: str, raw: object, wrap: Sequence[str], *, bare: bool) -> dict[str, Tensor]:
    if bare and wrap and isinstance(raw, Mapping) and wrap[0] not in raw:
        wrap = ()
    for depth, key in enumerate(wrap):
        if not isinstance(raw, Mapping) or key not in raw:
            raise WeightsError(
                f"{path}: expected the weights under {' / '.join(wrap[: depth + 1])!r}, found {_keys_of(raw)}; "
                f"this is not the file that the model's card describes"
            )
        raw = raw[key]
    if not isinstance(raw, Mapping):
        raise WeightsError(f"{path}: expected named tensors, found {_keys_of(raw)}")
    state = {str(name): value for name, value in raw.items() if isinstance(value, Tensor)}
    others = [str(name) for name, value in raw.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path}: expected only tensors, found other values under {_few(others)}; "
            f"the weights may lie one level deeper than {' / '.join(wrap) or 'the top'!r}"
        )
    return state


def fit(
    state: Mapping[str, Tensor], net: nn.Module, *, rename: Rename = (), drop: Iterable[str] = (), file: str = ""
) -> tuple[str, ...]:
    """Put ``state`` into ``net`` (which may be on the meta device); returns the names dropped.

    ``drop``: regular expressions that match whole names of the file. ``rename``: a function, or
    (pattern, replacement) pairs applied in order, from the file's names to the network's.
    Every tensor of the network must then be there, in its shape, and nothing else. Tensors are
    cast to the network's dtype; those that have it are taken as they are.
    """
    dropping = re.compile("|".join(f"(?:{pattern})" for pattern in drop) or r"(?!)")
    dropped = tuple(sorted(name for name in state if dropping.fullmatch(name)))
    source: dict[str, str] = {}
    for name in state:
        if dropping.fullmatch(name):
            continue
        target = _renamed(name, rename)
        if target in source:
            raise WeightsError(f"{file}: {source[target]} and {name} both stand for {target}; the file is another one")
        source[target] = name
    expected = net.state_dict()
    _require_match(state, source, expected, file)
    ready = {target: state[name].to(expected[target].dtype) for target, name in source.items()}
    net.load_state_dict(ready, strict=True, assign=True)
    left = [name for name, tensor in (*net.named_parameters(), *net.named_buffers()) if tensor.is_meta]
    if left:
        raise WeightsError(f"{file}: the network has tensors that no file fills: {_few(left)}")
    logger.info("weights_fitted", extra={"file": file, "tensors": len(ready), "dropped": len(dropped)})
    return dropped


def _require_match(
    state: Mapping[str, Tensor], source: Mapping[str, str], expected: Mapping[str, Tensor], file: str
) -> None:
    missing = [name for name in expected if name not in source]
    extra = [source[name] for name in source if name not in expected]
    shapes = [
        f"{source[name]} {tuple(state[source[name]].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in source and state[source[name]].shape != tensor.shape
    ]
    wrong = [
        f"{len(names)} {what}: {_few(names)}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if wrong:
        raise WeightsError(
            f"{file} does not fit the network; {'; '.join(wrong)}. Nothing was loaded. It is another model, variant or "
            f"release, or it is damaged: pull it again, or put the published file in its place"
        )


def _renamed(name: str, rename: Rename) -> str:
    if callable(rename):
        return rename(name)
    for pattern, replacement in rename:
        name = re.sub(pattern, replacement, name)
    return name


def _read_safetensors(path: str) -> object:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as exc:
        raise WeightsError(_damaged(path, exc)) from exc


def _read_torch(path: str, safe_globals: Sequence[type], *, mapped: bool) -> object:
    try:
        with torch.serialization.safe_globals(list(safe_globals)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError) as exc:
        raise WeightsError(_damaged(path, exc)) from exc


def _damaged(path: str, cause: BaseException) -> str:
    refused = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(cause))
    if refused:
        return (
            f"{path} cannot be read as a checkpoint: it holds objects of {refused[1]} beside its tensors, and loading "
            f"those would run code. Is it the published file? What a model's file really needs stands in safe_globals"
        )
    reason = str(cause).strip().splitlines()
    return (
        f"{path} cannot be read as a checkpoint ({reason[0] if reason else type(cause).__name__}); it is truncated, "
        f"damaged or of another format: delete it and pull it again"
    )


def _keys_of(value: object) -> str:
    if isinstance(value, Mapping):
        return f"the keys {_few([str(key) for key in value])}"
    return f"a {type(value).__name__}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
