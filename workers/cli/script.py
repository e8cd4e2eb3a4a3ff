"""``submit-export``: submitting as a program of its own."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from rsembed.cli.main import run_command
from workers.cli.group import missing_package


def main() -> NoReturn:
    """Entry point."""
    try:
        submit = importlib.import_module("workers.cli.submit")
    except ModuleNotFoundError as exc:
        missing_package(exc).show()
        sys.exit(2)
    run_command(submit.script(), "submit-export")
