from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rsembed.cli.main import COMMANDS, LazyGroup, cli
from rsembed.core.errors import SpecError

ROOT = Path(__file__).resolve().parents[3]


def group_that_raises(error: BaseException) -> click.Group:
    """A group like ours whose command ``go`` ends in ``error``."""

    @click.group(cls=_Fixed)
    @click.option("-v", "--verbose", count=True)
    def group(verbose: int) -> None: ...

    @click.command()
    def go() -> None:
        raise error

    assert isinstance(group, _Fixed)
    group.only = go
    return group


class _Fixed(LazyGroup):
    only: click.Command

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.only


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SpecError("latitude is odd"), 2, "error: latitude is odd"),
        (ValueError("a slip"), 1, "error: internal error, ValueError: a slip (run with -v"),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to go on"),
    ],
)
def test_group_when_a_command_raises_then_one_line_and_a_code(error: BaseException, code: int, said: str) -> None:
    result = CliRunner().invoke(group_that_raises(error), ["go"])
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_group_when_verbose_then_an_internal_error_shows_itself() -> None:
    result = CliRunner().invoke(group_that_raises(ValueError("a slip")), ["-v", "go"])
    assert isinstance(result.exception, ValueError)


def test_help_when_asked_then_every_command_is_listed() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"fleet"}))
def test_help_when_asked_of_a_command_then_it_teaches(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_when_asked_then_nothing_heavy_is_loaded() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom rsembed.cli.main import cli\n"
        "CliRunner().invoke(cli, ['--help'])\n"
        "print([n for n in ('torch', 'rasterio', 'pandas', 'pyarrow', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.strip()
    assert "torch" not in loaded
    assert "rasterio" not in loaded
    assert "pandas" not in loaded


def test_version_when_asked_then_it_is_printed() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output.startswith("rsembed, version 0.")


def test_command_when_unknown_then_refused() -> None:
    result = CliRunner().invoke(cli, ["exprot"])
    assert result.exit_code == 2
    assert "exprot" in result.output
