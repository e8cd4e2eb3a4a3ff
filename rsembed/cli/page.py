"""A page of sections, printed in a terminal or written as Markdown: the same content in both."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list. Each item: a mark in front of the others' column ("" for none), a word, and the text."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Entries:
    """Terms (a short piece of code) with what is to be said of each, a paragraph a line."""

    entries: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Table:
    """Rows of short texts."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Words | Items | Entries | Table


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """``title`` and ``lead`` (what it is in one sentence), then sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of text as aligned lines; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# In a terminal -----------------------------------------------------------------------------------


def text_lines(page: Page, width: int = 100) -> Iterator[str]:
    """The page for a terminal of ``width`` characters."""
    yield page.title
    yield from _wrapped(page.lead, width, "  ")
    for section in page.sections:
        yield f"\n{section.title}"
        for block in section.blocks:
            yield from _text_block(block, width)


def _text_block(block: Block, width: int) -> Iterator[str]:
    if isinstance(block, Words):
        yield from _wrapped(block.text, width, "  ")
    elif isinstance(block, Items):
        reach = max((len(word) for _, word, _ in block.items), default=0)
        marked = any(mark for mark, _, _ in block.items)
        for mark, word, text in block.items:
            head = f"{mark or ' '} " if marked else "  "
            yield from _wrapped(text, width, head + (f"{word:<{reach}}  " if reach else ""))
    elif isinstance(block, Entries):
        for term, lines in block.entries:
            yield f"  {term}"
            for line in lines:
                yield from _wrapped(line, width, "      ")
    else:
        yield from (f"  {line}" for line in columns([block.header, *block.rows]))


def _wrapped(text: str, width: int, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


# As Markdown --------------------------------------------------------------------------------------


def markdown(page: Page) -> str:
    """The page as the text of a Markdown file."""
    parts = [f"# {page.title}", page.lead]
    for section in page.sections:
        parts.append(f"## {section.title}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Words):
        return _escaped(block.text)
    if isinstance(block, Items):
        return "\n".join(f"- {_item_head(mark, word)}{_escaped(text)}" for mark, word, text in block.items)
    if isinstance(block, Entries):
        return "\n".join(f"- `{term}`: {'; '.join(_escaped(line) for line in lines)}" for term, lines in block.entries)
    lines = [block.header, tuple("---" for _ in block.header), *block.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def _item_head(mark: str, word: str) -> str:
    return (f"{_escaped(mark)} " if mark else "") + (f"*{word}*: " if word else "")


def _escaped(text: str) -> str:
    """``text`` with what Markdown would take for its own signs made plain; code between backticks stays.

    An underscore inside a word is none of them, and a URL must keep its own.
    """
    pieces = text.split("`")
    for i in range(0, len(pieces), 2):
        pieces[i] = pieces[i].replace("*", r"\*").replace("<", r"\<")
    return "`".join(pieces)
