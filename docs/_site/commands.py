"""The page of all commands, made from click's own description of them whenever the site is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from rsembed.cli.main import cli

PAGE = "reference/commands.md"
LEAD = """# Commands

What `--help` prints, of every command. Made from the commands themselves when this site is built.
Options go before or after arguments; `rsembed -v` before a command tells more.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs' hook: one page more."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """The page in Markdown."""
    context = click.Context(cli, info_name="rsembed")
    return "\n".join([LEAD, *of_command(cli, context, 2)])


def of_command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    """One command and those below it, each under a heading of its own."""
    yield f"{'#' * min(level, 4)} {context.command_path}\n"
    usage = " ".join(part.strip() for part in command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    yield f"{as_text(inspect.cleandoc(command.help or ''))}\n"
    rows = list(options(command, context))
    if rows:
        yield "| option | what it says |\n| --- | --- |"
        yield from rows
        yield ""
    if command.epilog:
        yield f"{epilogue(command.epilog)}\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from of_command(found, click.Context(found, parent=context, info_name=name), level + 1)


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """A row for each option that is not hidden."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None and "--help" not in parameter.opts:
            yield f"| `{record[0]}` | {cell(record[1])} |"


def cell(text: str) -> str:
    """Text inside a table."""
    return " ".join(as_text(text).replace("|", "\\|").split())


def as_text(text: str) -> str:
    """Help as Markdown: what is in capitals or brackets stays as it is."""
    return click.unstyle(text).replace("\b", "").replace("<", "&lt;").replace("[", "\\[")


def epilogue(text: str) -> str:
    """Examples as code, what follows as text."""
    first, _, rest = text.partition("\n\n")
    if not first.startswith("\b"):
        return as_text(text)
    return f"```text\n{first.removeprefix(chr(8)).strip()}\n```\n\n{as_text(rest)}"
