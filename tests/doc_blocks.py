"""The code blocks of a Markdown page, and a program that runs all of them in order.

``python -m tests.doc_blocks PAGE`` in a scratch folder runs what PAGE shows: Python blocks in one process, ``sh``
blocks with bash, a block with ``title="name"`` becomes that file, and each line of a ``text`` block with
``title="prints"`` has to stand in what the block before it printed.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", flags=re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
PRINTS = "prints"


@dataclass(frozen=True)
class Block:
    """``language``: the first word after the fence; ``line``: of the page, where the code begins."""

    language: str
    title: str | None
    text: str
    line: int


def blocks_of(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page (of one language) in their order."""
    found = []
    for match in BLOCK.finditer(page):
        name, title = match["info"].partition(" ")[0], TITLE.search(match["info"])
        line = page.count("\n", 0, match.start()) + 2
        found.append(Block(name, title and title[1], match["text"], line))
    return [block for block in found if language in (None, block.language)]


def run_page(path: Path) -> None:
    """Run every block of the page at ``path`` in the current folder; AssertionError where it prints something else."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(path.read_text(encoding="utf-8")):
        where = f"{path}:{block.line}"
        print(f"--- {where} {block.language}", flush=True)
        if block.language == "text" and block.title == PRINTS:
            missing = [line for line in block.text.splitlines() if line.strip() not in printed]
            assert not missing, f"{where}: not printed: {missing}, but:\n{printed}"
        elif block.title is not None:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = run_python(block, path, names)
        elif block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            printed = done.stdout
            print(done.stdout, done.stderr, sep="\n")
            assert done.returncode == 0, f"{where}: exit code {done.returncode}"


def run_python(block: Block, path: Path, names: dict[str, Any]) -> str:
    """Run a block among ``names``, with the page's lines in its tracebacks; what it printed."""
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    print(out.getvalue())
    return out.getvalue()


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
