"""`firebolt-cdc`: what an operator does. Everything that changes data shows first what it would do (`--yes` does it).

It works on the configuration of a deployed pipeline, named by its loader function (`--function`, or the environment
variable FIREBOLT_CDC_FUNCTION or LOADER_FUNCTION), with the AWS credentials of whoever runs it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import boto3
import typer
from botocore.config import Config as BotoConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from firebolt_cdc import __version__, deployed, direct, telemetry, whereabouts
from firebolt_cdc import settle as settling
from firebolt_cdc import status as looks
from firebolt_cdc.deployed import ALIAS, COMMAND_SECONDS, Pipeline
from firebolt_cdc.doctor import examine
from firebolt_cdc.errors import AWS_ERRORS, CdcError, FailureClass, PermanentError, TransientError, aws_error
from firebolt_cdc.events import Origin
from firebolt_cdc.files import FileVersion, identify
from firebolt_cdc.files import file_key as key_of
from firebolt_cdc.ledger import ANEW, with_conflict_retries
from firebolt_cdc.loader import Ending
from firebolt_cdc.plan import Plan
from firebolt_cdc.queues import Queues
from firebolt_cdc.reload import Reload
from firebolt_cdc.sql import marks
from firebolt_cdc.storage import ObjectInfo, Storage
from firebolt_cdc.whereabouts import Holding, Whereabouts

LAMBDA_SECONDS = 910
"""How long an answer of a function may take: botocore's minute would end the wait, and then invoke it again."""
NEWEST = 5
"""How many of the changes that a reload supersedes its dry run names."""
app = typer.Typer(
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
console = Console()

FunctionOption = Annotated[
    str,
    typer.Option(
        "--function", envvar=["FIREBOLT_CDC_FUNCTION", "LOADER_FUNCTION"], help="The pipeline's loader function."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def main() -> None:
    """Entry point: a classified failure is one readable line and exit code 1, not a traceback."""
    if region := os.environ.get("AWS_REGION"):  # which Lambda and the AWS CLI know, and boto3 does not
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    try:
        app()
    except CdcError as error:
        Console(stderr=True).print(
            f"[bold red]{error.failure_class}[/]: {escape(_visible(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)


@app.callback(invoke_without_command=True, help=__doc__)
def version(
    show: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    """What belongs to no command: `--version`."""
    if show:
        console.print(f"firebolt-cdc {__version__}", highlight=False)
        raise typer.Exit


def _pipeline(function: str, seconds: float = COMMAND_SECONDS) -> Pipeline:
    return deployed.find(function, seconds)


def _print(rows: Sequence[Sequence[Any]], title: str, columns: Sequence[str]) -> None:
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=escape(_visible(title)), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else escape(_visible(value)) for value in row))
    console.print(table)


def _visible(value: object) -> str:
    """Text with its control characters spelt out (`\\n`): a key may hold any, and no row of a table may look like two,
    nor a name steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


@app.command()
def status(
    function: FunctionOption,
    file: Annotated[
        list[str] | None, typer.Argument(help="Where is this file? Its file_key, key or s3:// URL; none: all in all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Files by status, loads, schema changes, duplicates prevented, failures, the ledger's size; or where a file is."""
    pipeline = _pipeline(function)
    waiting = Queues(boto3.client("sqs"), pipeline.config.queue).depth()
    if file:
        _where(pipeline, file, waiting, as_json)
        return
    answers = looks.overview(pipeline.engine, pipeline.config)
    if as_json:
        result: dict[str, Any] = {
            name: [dict(zip(section.columns, row, strict=True)) for row in answers[name]]
            for name, section in looks.SECTIONS.items()
        }
        console.print_json(json.dumps(result | {"queue_depth": waiting}, default=str))
        return
    for name, section in looks.SECTIONS.items():
        _print(answers[name], section.title, section.columns)
    console.print(f"Messages in the queue: {waiting}")


def _where(pipeline: Pipeline, names: Sequence[str], waiting: int, as_json: bool) -> None:
    storage = Storage(boto3.client("s3"), pipeline.config)
    found, unknown = whereabouts.find(pipeline.engine, pipeline.config, storage, names)
    answers = [_told(pipeline, file, waiting) for file in found]
    if as_json and answers:
        console.print_json(json.dumps(answers, default=str))
    for answer in answers if not as_json else ():
        facts = {
            "object": answer["object"] or "not in S3",
            **{name: answer[name] for name in ("etag", "bytes", "modified")},
            "table": ", ".join(f"{name} {value}" for name, value in answer["table"].items()),
            "turn": answer["turn"] and ", ".join(f"{name} {value}" for name, value in answer["turn"].items()),
        }
        _print(list(facts.items()), answer["file"], ("", ""))
        for title, lines in (("In the ledger", answer["ledger"]), ("In cdc_applied", answer["applied"])):
            _print([list(line.values()) for line in lines], title, list(lines[0]) if lines else ())
        console.print(f"{_visible(answer['next'])}\n", style="bold", markup=False, highlight=False, soft_wrap=True)
    if unknown:
        raise PermanentError(
            f"{unknown}: neither in S3 nor in the ledger; a name is what follows s3://"
            f"{pipeline.config.source.pipeline} in an object's URL"
        )


def _told(pipeline: Pipeline, file: Whereabouts, waiting: int) -> dict[str, Any]:
    info, source, most = file.info, file.source, pipeline.config.loader.max_attempts
    return {
        "file": file.file_key,
        "object": str(file.version) if info else None,
        "etag": info.version.etag if info else None,
        "bytes": info.size_bytes if info else None,
        "modified": info.last_modified if info else None,
        "table": {"none": str(file.refusal)}
        if source is None
        else {
            "source": source.source_table,
            "target": source.target,
            "generation": file.generation,
            "mode": source.table.mode,
            "kind": source.kind,
        },
        "turn": _turn(source.turn, file.turns.get(source.turn)) if source else None,
        "ledger": [
            {
                "etag": line.etag,
                "status": line.row.status,
                "class": line.row.error_class,
                "tries": f"{line.row.alone_count} of {most}",
                "claims": line.claims,
                "processed at": line.processed_at,
                "message": line.row.error_message,
            }
            for line in file.recorded
        ],
        "applied": [
            {
                "etag": line.etag,
                "target": line.target,
                "generation": line.generation,
                "load": line.load_id,
                "applied at": line.applied_at,
                "rows": line.rows_read,
            }
            for line in file.applied
        ],
        "next": whereabouts.next_step(file, pipeline.config, waiting),
    }


def _turn(name: str, held: Holding | None) -> dict[str, Any]:
    if held is None:
        return {"of": name, "is": "missing: run firebolt-cdc migrate --yes"}
    if held.turn.holder is None:
        return {"of": name, "is": "free"}
    state = "held" if held.turn.live else "past its lease, free to take"
    return {"of": name, "is": state, "until": held.lease_until, "by": held.turn.holder}


@app.command()
def retry(
    function: FunctionOption,
    file: Annotated[list[str] | None, typer.Argument(help="file_key of files to retry; none: all that failed.")] = None,
    table: Annotated[str | None, typer.Option(help="Only files of this table (target, or schema/table).")] = None,
    error_class: Annotated[
        FailureClass | None,
        typer.Option("--class", help="Only this class; held files only so, or named."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load failed files again, with a fresh budget of attempts. A dry run unless --yes is given.

    Held and skipped files are loaded only if they are named: to load them can be wrong.
    """
    pipeline = _pipeline(function)
    condition = "pipeline = ? AND status = 'failed'"
    if file:
        condition = "pipeline = ? AND (status IN ('failed', 'skipped') OR error_class = 'held')"
    elif error_class is FailureClass.HELD:
        condition = "pipeline = ?"
    parameters: list[object] = [pipeline.config.source.pipeline]
    if file:
        condition, parameters = f"{condition} AND file_key IN ({marks(file)})", [*parameters, *file]
    if error_class:
        condition, parameters = f"{condition} AND error_class = ?", [*parameters, error_class]
    rows = pipeline.engine.query(
        "SELECT file_id, bucket, object_key, etag, file_key, error_class, attempt_count, error_message, target_table, "
        f"source_table FROM cdc_processed_files WHERE {condition} ORDER BY processed_at",
        parameters,
    )
    rows = [row[:8] for row in rows if table is None or table in (*row[8:], *_goes_to(pipeline, row))]
    if yes and rows:
        _retry(pipeline, rows)
    if file and not rows:
        raise PermanentError(f"none of {file} is failed, held or skipped: see the ledger, or `firebolt-cdc status`")
    if as_json:
        console.print_json(json.dumps({"retried" if yes else "would_retry": [str(row[4]) for row in rows]}))
        return
    _print(
        [row[4:] for row in rows], "Retried" if yes else "Would be retried", ("file", "class", "attempts", "message")
    )
    console.print(
        f"{len(rows)} file(s) sent to the queue."
        if yes
        else f"{len(rows)} file(s). Nothing was changed; add --yes to retry."
    )


def _goes_to(pipeline: Pipeline, row: Sequence[Any]) -> tuple[str, ...]:
    """Target and source table of a ledger row's file by today's table map, which the row may be older than."""
    try:
        file = identify(pipeline.config, FileVersion(str(row[1]), str(row[2]), str(row[3])))
    except PermanentError:
        return ()
    return file.target, file.source_table


def _retry(pipeline: Pipeline, rows: Sequence[Sequence[Any]]) -> None:
    """As the guide's UPDATE by hand, and an announcement of each file at once."""
    for start in range(0, len(rows), 200):
        chunk = rows[start : start + 200]
        ids = [str(row[0]) for row in chunk]
        sql = f"UPDATE cdc_processed_files SET {ANEW} WHERE status <> 'completed' AND file_id IN ({marks(ids)})"
        with_conflict_retries(pipeline.deadline, functools.partial(pipeline.engine.query, sql, ids))
        queues = Queues(boto3.client("sqs"), pipeline.config.queue)
        queues.announce([(str(r[1]), str(r[2]), str(r[3])) for r in chunk], Origin.OPERATOR, datetime.now(UTC))


@app.command()
def settle(
    function: FunctionOption,
    file: Annotated[list[str], typer.Argument(help="file_key of each file.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Count failed or held files as applied, without loading them. A dry run unless --yes is given.

    For what was dealt with by hand: its rows are in the target already, or nobody wants them. A reload of the table,
    which begins from the files, loads what was held, and leaves out changes that had failed.
    """
    pipeline = _pipeline(function)
    found = settling.find(pipeline.engine, pipeline.config, file)
    if yes:
        settling.settle(pipeline.engine, pipeline.config, pipeline.deadline, found, reason)
    rows = [(one.file_key, one.version.etag, one.error_class, one.message) for one in found]
    if as_json:
        console.print_json(json.dumps({"settled" if yes else "would_settle": [row[0] for row in rows]}))
        return
    _print(rows, "Settled" if yes else "Would be settled", ("file", "etag", "class", "message"))
    if not yes:
        console.print("Nothing was changed; add --yes to settle.")


@app.command()
def reload(
    function: FunctionOption,
    table: Annotated[str, typer.Argument(help="Source table (schema/table) or target.")],
    everything: Annotated[
        bool, typer.Option("--everything", help="Begin again from all files in S3, not from a new full load.")
    ] = False,
    allow_gone: Annotated[
        bool, typer.Option("--allow-gone", help="Go on although files that were applied are no longer in S3.")
    ] = False,
    same_task: Annotated[
        bool,
        typer.Option(
            "--same-task",
            help="Of a table without another full load: the DMS task that wrote the older changes has loaded it anew.",
        ),
    ] = False,
    drop_older_full_load: Annotated[
        bool,
        typer.Option("--drop-older-full-load", help="The new full load is whole without the older full-load files."),
    ] = False,
    max_duration: Annotated[str, typer.Option(help="How long it may take, and hold the table: 30m, 2h.")] = "1h",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Begin a table anew: from the full load that DMS wrote again, and every change since. A dry run unless --yes.

    Changes that are older than the new full load are left out: right if the task that wrote them wrote it too, wrong if
    another task read it meanwhile. Compare the newest of them, which the dry run shows, with its start.

    Readers see the old rows until the new ones replace them all at once. Interrupted, it goes on where it stopped.
    """
    telemetry.beside_the_terminal()
    here = direct.OwnMachine(direct.duration_seconds(max_duration), invoked_function_arn="firebolt-cdc reload")
    pipeline = _pipeline(function, here.seconds)
    work = Reload.of(pipeline.config, pipeline.engine, pipeline.deadline, here)
    plan = work.plan(table, everything=everything)
    doubt = plan.doubt(same_task=same_task, drop_older_full_load=drop_older_full_load)
    if not as_json:
        _print_plan(plan)
    if not yes:
        if as_json:
            console.print_json(json.dumps({"would_reload": _described(plan) | {"undecided": doubt}}))
        elif doubt:
            console.print(f"Nothing was changed, and --yes is refused as it is: {escape(_visible(doubt))}")
        else:
            console.print("Nothing was changed; add --yes to reload.")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a polite end gives the turn back
    with Progress(console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task("Files", total=len(plan.items))
        result = work.run(
            plan,
            allow_gone=allow_gone,
            same_task=same_task,
            drop_older_full_load=drop_older_full_load,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        console.print_json(json.dumps({"reloaded": _described(plan) | asdict(result)}))
    else:
        console.print(
            f"{plan.table.target} is in generation {result.generation}: {result.files} files, {result.rows_read} rows "
            f"read, {result.superseded} older files superseded."
        )


def _print_plan(plan: Plan) -> None:
    described = _described(plan)
    rows = [(name, str(value)) for name, value in described.items() if not isinstance(value, (dict, list))]
    _print(rows, f"Reload of {plan.source_table}", ("", ""))
    _print(
        [tuple(change.values()) for change in described["newest_superseded_changes"]],
        "Changes that it takes the full load to hold, the newest",
        ("file", "modified", "applied", "seconds before the full load"),
    )
    _print(
        [(name,) for name in described["superseded_full_load_files"]],
        "Full-load files of the present rows that the new ones would lack",
        ("file",),
    )
    _print(list(plan.left_out.items()), "Left out: failed for good (retry them first, if they matter)", ("file", "why"))


def _described(plan: Plan) -> dict[str, Any]:
    moments = [change.modified for change in plan.older_changes if change.modified is not None]
    return {
        "table": plan.source_table,
        "target": plan.table.target,
        "generation": f"{plan.current} -> {plan.generation}{' (goes on)' if plan.resumes else ''}",
        "starts": plan.starts.isoformat(),
        "full_load_files": len(plan.full),
        "change_files": len(plan.changes),
        "bytes": sum(item.info.size_bytes for item in plan.items),
        "already_filled": len(plan.items) - len(plan.rest),
        "superseded_files": len(plan.superseded),
        "superseded_changes_applied": sum(change.applied for change in plan.older_changes),
        "superseded_changes_not_applied": sum(not change.applied for change in plan.older_changes),
        "superseded_changes_from": min(moments).isoformat() if moments else None,
        "superseded_changes_to": max(moments).isoformat() if moments else None,
        "newest_superseded_changes": [
            {
                "file": change.file_key,
                "modified": change.modified.isoformat() if change.modified else None,
                "applied": change.applied,
                "seconds_before": (plan.starts - change.modified).total_seconds() if change.modified else None,
            }
            for change in plan.older_changes[: -NEWEST - 1 : -1]
        ],
        "superseded_full_load_files": [item.file.file_key for item in plan.older_full],
        "left_out": plan.left_out,
    }


@app.command()
def load(
    function: FunctionOption,
    file: Annotated[list[str], typer.Argument(help="file_key or s3:// URL of each file.")],
    max_duration: Annotated[str, typer.Option(help="How long it may take, and hold the table: 30m, 2h.")] = "1h",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load files from this machine, with its time and memory: what is too large for Lambda. A dry run unless --yes.

    Needs what the loader's role may do: read the source, write the staging area, read the secret.
    """
    seconds = direct.duration_seconds(max_duration)
    telemetry.beside_the_terminal()
    pipeline = _pipeline(function)
    storage = Storage(boto3.client("s3"), pipeline.config)
    objects = [direct.look_up(pipeline.config, storage, name) for name in file]
    if not yes:
        _show_load(pipeline, objects, as_json)
        return
    outcomes = direct.load(pipeline.config, objects, seconds)
    if as_json:
        console.print_json(
            json.dumps(
                [
                    {
                        "file": o.file_key,
                        "ending": o.ending,
                        "reason": o.reason,
                        **(asdict(o.counts) if o.counts else {}),
                    }
                    for o in outcomes
                ]
            )
        )
    else:
        _print(
            [(o.file_key, o.ending, o.counts.rows_read if o.counts else None, o.reason) for o in outcomes],
            "Loaded from here",
            ("file", "ending", "rows", "reason"),
        )
    if not all(o.ending in (Ending.LOADED, Ending.DUPLICATE) for o in outcomes):
        raise typer.Exit(1)


def _show_load(pipeline: Pipeline, objects: Sequence[ObjectInfo], as_json: bool) -> None:
    ids = [info.version.file_id for info in objects]
    known = pipeline.engine.query(
        f"SELECT file_id, status, error_message FROM cdc_processed_files WHERE file_id IN ({marks(ids)})", ids
    )
    found = {str(row[0]): (str(row[1]), row[2]) for row in known}
    rows = [
        (key_of(pipeline.config, info.version.key), info.size_bytes, *found.get(info.version.file_id, ("new", None)))
        for info in objects
    ]
    columns = ("file", "bytes", "status", "message")
    if as_json:
        console.print_json(json.dumps({"would_load": [dict(zip(columns, row, strict=True)) for row in rows]}))
        return
    _print(rows, "Would be loaded from here", columns)
    console.print("Nothing was changed; add --yes to load.")


@app.command()
def migrate(
    function: FunctionOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done: the default.")] = False,
    show_status: Annotated[bool, typer.Option("--status", help="Show what is applied and what is pending.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the migrations (the migrate function does it, as `terraform apply` would). A dry run unless --yes is given.

    It also gives new targets of the table map their turn, adopts a ledger made by hand, and makes LOCATION objects.
    """
    config = _pipeline(function).config
    doing = yes and not dry_run and not show_status
    action = "migrate" if doing else "status" if show_status else "dry_run"
    name = f"{config.name}-migrate"
    patient = boto3.client("lambda", config=BotoConfig(read_timeout=LAMBDA_SECONDS, retries={"total_max_attempts": 1}))
    try:
        answer = patient.invoke(FunctionName=name, Qualifier=ALIAS, Payload=json.dumps({"action": action}).encode())
        result = json.loads(answer["Payload"].read())
    except AWS_ERRORS as error:
        raise aws_error(error, f"invoking {name}:{ALIAS}") from error
    if answer.get("FunctionError"):
        raise TransientError(f"the migrate function failed: {result.get('errorMessage', result)}")
    if as_json:
        console.print_json(json.dumps(result))
        return
    statements = result.pop("statements", [])
    for name, value in result.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
        console.print(f"[bold]{name}[/]: {escape(text) or 'none'}")
    for statement in statements:
        console.print(f"{statement};", markup=False, highlight=False, soft_wrap=True)
    if action == "dry_run":
        console.print("Nothing was changed; add --yes to migrate.")


@app.command()
def doctor(function: FunctionOption, as_json: JsonOption = False) -> None:
    """Is the ledger reachable, are the deduplication steps called, are there errors? Exit code 1 if not all is well."""
    findings = examine(lambda: _pipeline(function))
    if as_json:
        console.print_json(json.dumps([asdict(f) for f in findings]))
    else:
        table = Table("", "question", "answer", title="firebolt-cdc doctor", title_justify="left")
        for f in findings:
            table.add_row("[green]ok[/]" if f.good else "[bold red]no[/]", f.question, escape(f.answer))
        console.print(table)
    if not all(f.good for f in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
