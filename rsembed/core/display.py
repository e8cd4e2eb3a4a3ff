"""How results look on a console and in a notebook: a heading and a few facts, never the numbers themselves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """A ``heading`` and ``rows``: name -> what is known; rows of which nothing is known are left out."""

    heading: str
    rows: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """For a console: one line a fact, names aligned."""
        shown = {name: value for name, value in self.rows.items() if value}
        width = max(map(len, shown), default=0)
        return "\n".join([self.heading, *(f"  {name:<{width}}  {value}" for name, value in shown.items())])

    def html(self) -> str:
        """For a notebook: a table."""
        lines = [
            f"<tr><td style='text-align:left'>{html.escape(name)}</td>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.rows.items()
            if value
        ]
        return f"<div><b>{html.escape(self.heading)}</b><table>{''.join(lines)}</table></div>"


def counted(counts: Mapping[str, int]) -> str:
    """``290 ok, 10 failed``: what there is none of is left out."""
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number) or "no rows"
