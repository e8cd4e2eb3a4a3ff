"""``rsembed fleet submit``, and ``submit-export`` for the everyday case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from rsembed.cli.log_lines import set_up_logging
from rsembed.cli.main import EXIT_REFUSED, CommandFailedError, OneLineErrors
from rsembed.cli.options import (
    ImageryOptions,
    imagery_options,
    recipe_options,
    sensor_options,
    take,
    together,
)
from rsembed.cli.quantities import count
from rsembed.cli.run_options import row_options, row_options_of, run_request, windows_of, work_options
from rsembed.cli.run_report import dry_run_lines, estimate_json, plan_lines, weights_states
from rsembed.core.errors import RSEmbedError
from rsembed.core.settings import Settings
from rsembed.pipelines.request import RunRequest
from rsembed.pipelines.rows.formats import open_table
from rsembed.plugins import load_plugins
from workers.cli.connection import open_ledger, operator, print_json
from workers.cli.group import explained
from workers.cli.status import work_text
from workers.cli.watch import watch_run
from workers.ledger.records import RunRecord, RunState
from workers.ledger.repository import Ledger
from workers.spec import ProviderSpec
from workers.submit import Planned, Submission, SubmitOptions, planned
from workers.submit import submit as submit_run

EPILOG = """\b
Examples:
  See what a run would do, without doing it (needs no server):
    rsembed fleet submit places.csv --model MODEL --year 2022 --out out --dry-run
  Two models that share a fetch, into a bucket, on GPUs; wait for the end:
    rsembed fleet submit places.parquet --model MODEL_A --model MODEL_B --out s3://bucket/run --device cuda --watch
  Ahead of the others, and pausing itself after a million provider requests:
    rsembed fleet submit places.parquet --model MODEL --out out --priority 10 --max-requests 1000000

The same command again finds its run and changes nothing; --new does an ended one again. Files given by path have to
be where the workers see them. Exit codes: 0 submitted (with --watch: done), 2 refused, 3 some rows failed, 130
stopped."""

fleet_options = together(
    click.option("--device", type=click.Choice(["cpu", "cuda"]), help="What the inference workers compute on "
                 "[default: RSEMBED_DEVICE, else cpu]."),
    click.option("--priority", type=int, help="Higher goes first [default: 0]. Given again, it changes the run's."),
    click.option("--max-requests", type=click.IntRange(min=1), help="Provider requests after which the run pauses "
                 "itself, once what is under way is done. Given again, it changes the run's."),
    click.option("--new", is_flag=True, help="Forget an ended run of this request and output, and do it again."),
    click.option("--paused", is_flag=True, help="Let it wait for `rsembed fleet resume`."),
    click.option("--watch", is_flag=True, help="Follow the run to its end."),
    click.option("--dry-run", is_flag=True, help="Print the whole plan; submit nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the result (or the dry run) as JSON."),
    click.option("--quiet", is_flag=True, help="Print neither plan nor progress."),
)  # fmt: skip


@click.command(epilog=EPILOG)
@click.argument("table", type=click.Path(exists=True))
@click.option("--out", required=True, metavar="FOLDER|URL", help="Where the datasets go: a folder that all workers "
              "see, or s3://, gs:// or az://bucket/prefix.")  # fmt: skip
@row_options
@imagery_options
@recipe_options
@sensor_options
@work_options
@fleet_options
@click.pass_context
def submit(ctx: click.Context, /, **given: Any) -> None:
    """Put the places in TABLE (Parquet, CSV, GeoJSON, GeoPackage) into the ledger as a run.

    All rows are checked before anything is queued. TABLE has a geometry, or columns lon and lat (degrees);
    optionally id, and start and end, date or year. Every other column is carried into the result.
    """
    call = _Call(given, Settings.from_environment())
    if given["dry_run"]:
        call.dry_run()
    else:
        ctx.exit(call.run())


class _Call:
    """The command, understood."""

    def __init__(self, given: Mapping[str, Any], settings: Settings) -> None:
        self._given = given
        self._settings = settings
        self._windows = windows_of(given)
        self._rows = row_options_of(given)
        device = given["device"] or settings.device.partition(":")[0] or "cpu"
        self._request: RunRequest = run_request(given, device=device)
        imagery = take(ImageryOptions, given)
        self._provider = ProviderSpec.resolve(
            imagery.backend,
            settings,
            **{"catalog": imagery.catalog, **imagery.arguments(), "source": imagery.source},
        )

    def _source(self) -> object:
        given = self._given
        return open_table(given["table"], layer=given["layer"], id_column=given["id_column"])

    def dry_run(self) -> None:
        """Print the plan."""
        with planned(
            self._request,
            self._source(),
            windows=self._windows,
            provider=self._provider,
            settings=self._settings,
            rows=self._rows,
            exact=True,
        ) as good:
            if not self._given["as_json"]:
                for line in dry_run_lines(good.plan, good.estimate, self._settings):
                    click.echo(line)
                return
            weights: Any = weights_states(good.plan, self._settings)
            estimate = estimate_json(good.estimate)
            print_json({"plan": good.plan.describe(), "estimate": estimate, "weights": weights})

    def run(self) -> int:
        """Submit, tell, and follow if asked; the exit code."""
        given = self._given
        silent = given["quiet"] or given["as_json"]
        # Dropping a run needs the direct connection.
        with open_ledger(direct=given["new"], check=True) as ledger:
            found = submit_run(
                self._request,
                self._source(),
                windows=self._windows,
                provider=self._provider,
                out=given["out"],
                ledger=ledger,
                settings=self._settings,
                rows=self._rows,
                options=SubmitOptions(
                    priority=given["priority"] or 0,
                    max_requests=given["max_requests"],
                    new=given["new"],
                    npz=given["npz"],
                    zarr=given["zarr"],
                    who=operator(),
                ),
                on_planned=(lambda _: None) if silent else _tell_plan,
            )
            changes = self._adjust(ledger, found)
            if given["as_json"]:
                return self._tell_programs(ledger, found)
            for line in (*submission_lines(found, watched=given["watch"]), *changes):
                click.echo(line)
            return watch_run(ledger, found.run.id, quiet=silent) if given["watch"] else 0

    def _tell_programs(self, ledger: Ledger, found: Submission) -> int:
        """Print one JSON object, with ``--watch`` once the run has ended; the exit code."""
        watched = self._given["watch"]
        code = watch_run(ledger, found.run.id, quiet=True, tell_end=False) if watched else 0
        told = {**submission_json(found), "state": ledger.run(found.run.id).state.value}
        print_json({**told, "exit_code": code} if watched else told)
        return code

    def _adjust(self, ledger: Ledger, found: Submission) -> list[str]:
        """What the options change beside the request: of a new run, and of one that is there already; in words."""
        run, priority, most, said = found.run, self._given["priority"], self._given["max_requests"], []
        if found.created and self._given["paused"]:
            ledger.pause(run.id, "submitted paused", operator())
            said.append(f"it is paused; `rsembed fleet resume {run.id}` lets it go")
        if not found.created and priority is not None and priority != run.priority:
            ledger.set_priority(run.id, priority, operator())
            said.append(f"its priority is now {priority} (it was {run.priority})")
        if not found.created and most is not None and most != run.max_requests:
            ledger.set_max_requests(run.id, most, operator())
            said.append(f"it may now make {most:,} requests")
        return said


def _tell_plan(good: Planned) -> None:
    for line in plan_lines(good.plan, good.estimate):
        click.echo(line, err=line.startswith("warning"))


def submission_json(found: Submission) -> dict[str, Any]:
    """What a submit came to, for programs."""
    run = found.run
    return {
        "run": run.id,
        "created": found.created,
        "state": run.state.value,
        "fingerprint": run.fingerprint,
        "output": run.output,
        "rows": run.n_rows,
        "skipped_rows": found.skipped_rows,
        "models": [model.label for model in run.models],
    }


def submission_lines(found: Submission, *, watched: bool) -> list[str]:
    """What a submit came to, and what comes next."""
    run = found.run
    if not found.created:
        return [f"run {run.id} is this request and output already: it is {_state_line(run)}"]
    lines = [f"run {run.id} submitted: {work_text(run)}, to {run.output}"]
    if found.skipped_rows:
        lines.append(f"left out: {count(found.skipped_rows, 'bad row')}, listed in skipped.parquet there")
    return lines if watched else [*lines, f"follow it: rsembed fleet watch {run.id}"]


def _state_line(run: RunRecord) -> str:
    what_next = {
        RunState.DONE: f"done, its results are in {run.output}; --new does it again",
        RunState.DONE_WITH_FAILURES: f"done with failed rows; `rsembed fleet retry {run.id}` does those again",
        RunState.PAUSED: f"paused ({run.reason}); `rsembed fleet resume {run.id}` lets it go on",
        RunState.BLOCKED: f"blocked ({run.reason}); it goes on by itself once that is mended",
        RunState.CANCELLED: f"cancelled; `rsembed fleet resume {run.id}` lets it go on, --new does it again",
    }
    return what_next.get(run.state, f"{run.state.value}; follow it: rsembed fleet watch {run.id}")


class _Script(OneLineErrors):
    """The command as a program of its own: plug-ins first, errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """See OneLineErrors."""
        set_up_logging(0)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; a plug-in's backends have to be known by then."""
        try:
            load_plugins(Settings.from_environment().plugins)
        except RSEmbedError as exc:
            raise CommandFailedError(str(exc), EXIT_REFUSED) from exc
        return super().parse_args(ctx, args)

    def explained(self, error: RSEmbedError) -> str:
        """See OneLineErrors."""
        return explained(error)


def script() -> click.Command:
    """The program ``submit-export``: ``rsembed fleet submit`` under a name of its own."""
    return _Script(
        "submit-export",
        callback=submit.callback,
        params=submit.params,
        help=submit.help,
        epilog=EPILOG.replace("rsembed fleet submit", "submit-export"),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
