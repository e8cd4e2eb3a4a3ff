"""Modules of the user's that add models and providers, imported before anything is looked up by name.

``RSEMBED_PLUGINS=mymodels,mysource`` names them. Importing such a module calls
:func:`rsembed.embedders.registry.register` (a model) or
:func:`rsembed.providers.factory.register_backend` (a source of imagery). The command line and
every worker import them first; a program of one's own just imports its module.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from rsembed.core.errors import SpecError


def load_plugins(names: Sequence[str]) -> None:
    """Import the modules ``names``. Raises SpecError, with the cause, for one that cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as exc:  # whatever the module raises is its author's to mend: told as its cause
            raise SpecError(f"the plug-in {name!r} (RSEMBED_PLUGINS) cannot be imported: {exc}") from exc
