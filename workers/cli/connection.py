"""What the commands share: the ledger they talk to, who they are, how they print."""

from __future__ import annotations

import contextlib
import getpass
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import click

from rsembed.core.patch import Json
from workers.ledger.db import check_schema
from workers.ledger.repository import Ledger
from workers.settings import FleetSettings

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
run_argument = click.argument("run_id", metavar="RUN", type=int)


@contextlib.contextmanager
def open_ledger(*, direct: bool = False, check: bool = False) -> Iterator[Ledger]:
    """The ledger that the environment names, or that of the `fleet up` on this machine.

    ``direct``: past any pooler. ``check``: refuse another schema first. Raises SpecError where there
    is none, LedgerError.
    """
    settings = FleetSettings.from_environment()
    url = settings.need_direct_database_url() if direct else settings.need_database_url()
    if check:
        check_schema(url)
    ledger = Ledger(url, direct=direct)
    try:
        yield ledger
    finally:
        ledger.close()


def operator() -> str:
    """Who gives the command, for the run's events."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


def print_json(value: Json) -> None:
    """``value`` for programs."""
    click.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, left: Sequence[str] = ()) -> list[str]:
    """A table in plain text; numbers to the right, the columns named in ``left`` to the left."""
    cells = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = []
    for row in cells:
        placed = [
            text.ljust(width) if head in left else text.rjust(width)
            for head, text, width in zip(heads, row, widths, strict=True)
        ]
        lines.append("  ".join(placed).rstrip())
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, left: Sequence[str] = ()) -> None:
    """Print :func:`table_lines`."""
    for line in table_lines(heads, rows, left=left):
        click.echo(line)
