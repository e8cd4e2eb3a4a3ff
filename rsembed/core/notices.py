"""Warnings for people, told at the line of theirs that called the package."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.split(".", maxsplit=1)[0]


def warn_user(message: str) -> None:
    """A UserWarning at the nearest calling line outside the package."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - the standard library's own way to look at its callers
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
