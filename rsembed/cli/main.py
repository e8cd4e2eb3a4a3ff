"""The command ``rsembed``: its subcommands, loaded when they are called, and what its errors look like."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import signal
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, TextIO

import click

from rsembed.cli.log_lines import set_up_logging
from rsembed.core.errors import RSEmbedError
from rsembed.core.settings import Settings
from rsembed.plugins import load_plugins
from rsembed.version import __version__

logger = logging.getLogger(__name__)

EXIT_INTERNAL, EXIT_REFUSED, EXIT_ROWS_FAILED, EXIT_STOPPED = 1, 2, 3, 130

COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "demo": ("rsembed.cli.demo", "demo", "Embed a small synthetic scene: no network, no weights."),
    "export": ("rsembed.cli.export", "export", "Embed a table of places into a dataset folder; resumable."),
    "embed": ("rsembed.cli.embed", "embed", "Embed one place and print or save the vector."),
    "inspect": ("rsembed.cli.inspect", "inspect", "Look at the pixels that a model or sensor would get."),
    "plot": ("rsembed.cli.plot", "plot", "Draw a run or a map of vectors: colours, likeness."),
    "models": ("rsembed.cli.models", "models", "List the models."),
    "describe": ("rsembed.cli.models", "describe", "All about one model: input, options, recipe, licence."),
    "weights": ("rsembed.cli.weights", "weights", "Where checkpoints are; fetch them ahead of a run."),
    "cache": ("rsembed.cli.cache", "cache", "Fetched pixels that later runs need not ask for again."),
    "fleet": ("workers.cli", "fleet", "Run exports on many machines."),
}
"""Name -> module, attribute, one line of help. A command whose module is not installed is not shown."""


class CommandFailedError(click.ClickException):
    """An error of ours as click prints it: one line that starts with ``error:``."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.__dict__["exit_code"] = exit_code  # click reads it from the instance, declared on the class

    def show(self, file: Any = None) -> None:  # click's own signature
        """Print the line on stderr."""
        click.echo(f"error: {self.format_message()}", err=True, file=file)


class OneLineErrors(click.Command):
    """A command that ends errors in one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors become one line and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except RSEmbedError as exc:
            logger.debug("refused", exc_info=exc)
            raise CommandFailedError(self.explained(exc), EXIT_REFUSED) from exc
        except KeyboardInterrupt:
            click.echo("\nstopped; run the same command again to go on", err=True)
            ctx.exit(EXIT_STOPPED)
        except BrokenPipeError:
            _silence(sys.stdout)
            ctx.exit(EXIT_INTERNAL)
        except Exception as exc:  # the command line ends here; what was caught is told, in full with -v
            if ctx.find_root().params.get("verbose"):
                raise
            raise CommandFailedError(
                f"internal error, {type(exc).__name__}: {exc} (run with -v before the command to see where)",
                EXIT_INTERNAL,
            ) from exc

    def explained(self, error: RSEmbedError) -> str:
        """What is said of ``error``; override to add what can be done about it here."""
        return str(error)


class LazyGroup(OneLineErrors, click.Group):
    """A group that imports a subcommand only when it is called.

    ``table``: name -> module, attribute, one line of help.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str, str]] = COMMANDS, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order; those whose module is not there are left out."""
        return [name for name, (module, _, _) in self._table.items() if _exists(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        module, attribute, _ = self._table.get(cmd_name, ("", "", ""))
        if not module or not _exists(module):
            return None
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in self.list_commands(ctx)])


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _silence(stream: TextIO) -> None:
    """Whoever read our output is gone; the interpreter must not complain when it flushes."""
    stream.close = lambda: None  # type: ignore[method-assign]  # nothing is left to write to


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `rsembed demo`; then `rsembed models` and `rsembed export --help`.",
)
@click.version_option(__version__, prog_name="rsembed")
@click.option("-v", "--verbose", count=True, help="Tell what is done; twice: in detail, with tracebacks.")
def cli(verbose: int) -> None:
    """Turn places into embeddings from remote-sensing foundation models."""
    set_up_logging(verbose)
    load_plugins(Settings.from_environment().plugins)


def main() -> NoReturn:
    """Entry point of the command and of ``python -m rsembed``."""
    run_command(cli, "rsembed")


def run_command(command: click.Command, name: str) -> NoReturn:
    """Run ``command`` as the program ``name``: signals, warnings and exit code as everywhere here."""
    signal.signal(signal.SIGTERM, _stop)
    warnings.showwarning = _show_warning
    command.main(prog_name=name)
    sys.exit(0)


def _stop(_number: int, _frame: object) -> NoReturn:
    """SIGTERM does what Ctrl-C does: what is done stays, the same command goes on."""
    raise KeyboardInterrupt


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del filename, lineno, file, line  # warnings passes them; a user is helped by the message alone
    if issubclass(category, (UserWarning, RuntimeWarning)):
        click.echo(f"warning: {message}", err=True)
    else:
        logger.debug("warning", extra={"category": category.__name__, "text": str(message)})
