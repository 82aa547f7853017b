"""`firebolt-cdc`: what an operator does. Everything that changes data shows first what it would do (`--yes` does it).

It works on the configuration of a deployed pipeline, named by its loader function (`--function`, or the environment
variable FIREBOLT_CDC_FUNCTION or LOADER_FUNCTION), with the AWS credentials of whoever runs it.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import boto3
import typer
from botocore.config import Config as BotoConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from firebolt_cdc import __version__, direct, migrations, telemetry
from firebolt_cdc import config as configuration
from firebolt_cdc import settle as settling
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
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

COMMAND_SECONDS = 300.0
LAMBDA_SECONDS = 910
"""How long an answer of a function may take: botocore's minute would end the wait, and then invoke it again."""
ALIAS = "PROD"
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


@dataclass(frozen=True)
class Pipeline:
    """A deployed pipeline, as its loader function sees it."""

    function: str
    config: Config
    engine: Engine
    deadline: Deadline


def main() -> None:
    """Entry point: a classified failure is one readable line and exit code 1, not a traceback."""
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
    """The pipeline of a loader function; its engine's connections are closed when the command ends."""
    try:
        found = boto3.client("lambda").get_function_configuration(FunctionName=function, Qualifier=ALIAS)
    except AWS_ERRORS as error:
        raise aws_error(error, f"reading the function {function}:{ALIAS} (is --function right?)") from error
    config = configuration.load(found.get("Environment", {}).get("Variables", {}))
    deadline = Deadline(seconds)
    engine = Engine.of(config, deadline)
    atexit.register(engine.close)
    return Pipeline(function, config, engine, deadline)


def _print(rows: Sequence[Sequence[Any]], title: str, columns: Sequence[str]) -> None:
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else escape(_visible(value)) for value in row))
    console.print(table)


def _visible(value: object) -> str:
    """Text with its control characters spelt out (`\\n`): a key may hold any, and no row of a table may look like two,
    nor a name steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


_STATUS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "files": (
        "Files by status",
        ("status", "error_class", "files", "oldest"),
        "SELECT status, error_class, COUNT(*), MIN(processed_at) FROM cdc_processed_files WHERE pipeline = ? "
        "GROUP BY status, error_class ORDER BY status, error_class",
    ),
    "today": (
        "Loaded today, by table",
        ("table", "files", "rows"),
        "SELECT target_table, COUNT(*), SUM(rows_read) FROM cdc_applied WHERE pipeline = ? "
        "AND DATE(applied_at) = CURRENT_DATE GROUP BY target_table ORDER BY target_table",
    ),
    "days": (
        "The last 7 days",
        ("day", "files", "completed", "failed"),
        "SELECT DATE(processed_at) AS day, COUNT(*), COUNT(CASE WHEN status = 'completed' THEN 1 END), "
        "COUNT(CASE WHEN status = 'failed' THEN 1 END) FROM cdc_processed_files WHERE pipeline = ? "
        "AND processed_at >= CURRENT_TIMESTAMP - INTERVAL '7' DAY GROUP BY DATE(processed_at) ORDER BY day DESC",
    ),
    "schema_changes": (
        "Schema changes, the last 7 days",
        ("table", "files", "failed", "newest", "change"),
        "SELECT target_table, COUNT(*), COUNT(CASE WHEN status = 'failed' THEN 1 END), MAX(processed_at), "
        "schema_change FROM cdc_processed_files WHERE pipeline = ? AND schema_change IS NOT NULL "
        "AND processed_at >= CURRENT_TIMESTAMP - INTERVAL '7' DAY GROUP BY target_table, schema_change "
        "ORDER BY MAX(processed_at) DESC LIMIT 50",
    ),
    "duplicates": (
        "Duplicate deliveries prevented, the last 7 days",
        ("day", "deliveries", "files"),
        "SELECT DATE(delivered_at) AS day, COUNT(*), COUNT(DISTINCT file_id) FROM cdc_duplicate_deliveries "
        "WHERE pipeline = ? AND delivered_at >= CURRENT_TIMESTAMP - INTERVAL '7' DAY "
        "GROUP BY DATE(delivered_at) ORDER BY day DESC",
    ),
    "turns": (
        "Tables being loaded now",
        ("table", "holder", "lease until"),
        "SELECT turn, holder, lease_until FROM cdc_tables WHERE pipeline = ? AND holder IS NOT NULL ORDER BY turn",
    ),
    "failed": (
        "Failed and held files (newest 20)",
        ("file", "class", "attempts", "message"),
        "SELECT file_key, error_class, attempt_count, error_message FROM cdc_processed_files WHERE pipeline = ? "
        "AND (status = 'failed' OR error_class = 'held') ORDER BY processed_at DESC LIMIT 20",
    ),
}


@app.command()
def status(function: FunctionOption, as_json: JsonOption = False) -> None:
    """Files by status, loads, schema changes, duplicates prevented, turns held, failures with their reason."""
    pipeline = _pipeline(function)
    answers = {
        name: pipeline.engine.query(sql, [pipeline.config.source.pipeline]) for name, (_, _, sql) in _STATUS.items()
    }
    waiting = Queues(boto3.client("sqs"), pipeline.config.queue).depth()
    if as_json:
        result: dict[str, Any] = {
            name: [dict(zip(columns, row, strict=True)) for row in answers[name]]
            for name, (_, columns, _) in _STATUS.items()
        }
        console.print_json(json.dumps(result | {"queue_depth": waiting}, default=str))
        return
    for name, (title, columns, _) in _STATUS.items():
        _print(answers[name], title, columns)
    console.print(f"Messages in the queue: {waiting}")


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the SQL that would run.")] = False,
    show_status: Annotated[bool, typer.Option("--status", help="Show what is applied and what is pending.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the migrations (the migrate function does it, as `terraform apply` would)."""
    config = _pipeline(function).config
    action = "dry_run" if dry_run else "status" if show_status else "migrate"
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


@dataclass(frozen=True)
class Finding:
    """One answer of the doctor."""

    question: str
    good: bool
    answer: str


@app.command()
def doctor(function: FunctionOption, as_json: JsonOption = False) -> None:
    """Is the ledger reachable, are the deduplication steps called, are there errors? Exit code 1 if not all is well."""
    findings: list[Finding] = []

    def ask(question: str, answer: Callable[[], str]) -> bool:
        try:
            findings.append(Finding(question, True, answer()))
        except CdcError as error:
            findings.append(Finding(question, False, str(error)))
        except AWS_ERRORS as error:
            findings.append(Finding(question, False, str(aws_error(error, question))))
        return findings[-1].good

    found: list[Pipeline] = []
    if ask("The loader and its configuration can be read", lambda: _describe(found, function)):
        pipeline = found[0]
        reachable = ask("The ledger can be read", lambda: _ask_ledger(pipeline))
        if reachable:
            ask("The schema is one that this version works with", lambda: _ask_schema(pipeline))
            ask("Every table of the map has its turn", lambda: _ask_turns(pipeline))
            ask("No turn is held past its lease", lambda: _ask_leases(pipeline))
        ask("The source bucket can be listed", lambda: _ask_source(pipeline))
        ask("The source bucket sends events to EventBridge", lambda: _ask_events(pipeline))
        ask("The dead-letter queues are empty", lambda: _ask_dead_letters(pipeline))
        ask("The deduplication steps are called", lambda: _ask_steps(pipeline))
        ask("No 'Error checking if file processed' in the last day", lambda: _ask_errors(pipeline))
    if as_json:
        console.print_json(json.dumps([f.__dict__ for f in findings]))
    else:
        table = Table("", "question", "answer", title="firebolt-cdc doctor", title_justify="left")
        for f in findings:
            table.add_row("[green]ok[/]" if f.good else "[bold red]no[/]", f.question, escape(f.answer))
        console.print(table)
    if not all(f.good for f in findings):
        raise typer.Exit(1)


def _describe(found: list[Pipeline], function: str) -> str:
    pipeline = _pipeline(function)
    found.append(pipeline)
    config, firebolt = pipeline.config, pipeline.config.firebolt
    where = firebolt.core_url or f"{firebolt.account_name}/{firebolt.engine_name}"
    return f"{config.name}: s3://{config.source.pipeline} to {where}, {len(config.tables)} tables"


def _ask_ledger(pipeline: Pipeline) -> str:
    rows = pipeline.engine.query(
        "SELECT COUNT(*) FROM cdc_processed_files WHERE pipeline = ?", [pipeline.config.source.pipeline]
    )
    return f"{rows[0][0]} files in cdc_processed_files"


def _ask_schema(pipeline: Pipeline) -> str:
    migrations.require(pipeline.engine)
    return f"version {migrations.REQUIRED_VERSION} or a compatible newer one"


def _ask_turns(pipeline: Pipeline) -> str:
    rows = pipeline.engine.query("SELECT turn, pipeline FROM cdc_tables")
    owners = {str(row[0]): str(row[1]) for row in rows}
    mine = pipeline.config.source.pipeline
    missing = [turn for turn in pipeline.config.turns if owners.get(turn) != mine]
    if missing:
        raise PermanentError(f"no turn, or another pipeline's, for {missing[:10]}: run `firebolt-cdc migrate`")
    return f"{len(pipeline.config.turns)} turns"


def _ask_leases(pipeline: Pipeline) -> str:
    rows = pipeline.engine.query(
        "SELECT turn, lease_until FROM cdc_tables WHERE pipeline = ? AND holder IS NOT NULL "
        "AND lease_until <= CURRENT_TIMESTAMP",
        [pipeline.config.source.pipeline],
    )
    if rows:
        raise TransientError(f"{[str(row[0]) for row in rows]}: the sweep frees them; is the cleanup function running?")
    return "none"


def _ask_source(pipeline: Pipeline) -> str:
    source = pipeline.config.source
    answer = boto3.client("s3").list_objects_v2(Bucket=source.bucket, Prefix=source.prefix, MaxKeys=1)
    return f"s3://{source.bucket}/{source.prefix}: {'has objects' if answer.get('KeyCount') else 'is empty'}"


def _ask_events(pipeline: Pipeline) -> str:
    bucket = pipeline.config.source.bucket
    answer = boto3.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    if "EventBridgeConfiguration" not in answer:
        raise PermanentError(
            f"EventBridge is off at the bucket {bucket}: no file is announced; switch it on (its owner, "
            "or source_bucket.manage_eventbridge_notification)"
        )
    return "EventBridge is on"


def _ask_dead_letters(pipeline: Pipeline) -> str:
    sqs, queue = boto3.client("sqs"), pipeline.config.queue
    counts = {
        url.rsplit("/", 1)[-1]: int(
            sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"][
                "ApproximateNumberOfMessages"
            ]
        )
        for url in (queue.dlq_url, queue.target_dlq_url)
        if url
    }
    if any(counts.values()):
        raise PermanentError(
            f"{counts}: `firebolt-cdc status` names files and reasons; when they are dealt with, purge the queue "
            '(runbook, "A file failed")'
        )
    return "empty"


def _ask_steps(pipeline: Pipeline) -> str:
    number, newest = _logged(pipeline, '"STEP 1: CHECK IF FILE ALREADY PROCESSED"')
    none = "none in the last day (no file came, or loader.log_level is above INFO)"
    return f"{number} in the last day, the newest at {newest}" if number else none


def _ask_errors(pipeline: Pipeline) -> str:
    number, newest = _logged(pipeline, '"Error checking if file processed"')
    if number:
        raise TransientError(f"{number}, the newest at {newest}: see the log group /aws/lambda/{pipeline.function}")
    return "none"


def _logged(pipeline: Pipeline, pattern: str) -> tuple[int, str]:
    """How many log lines of the last day hold a text, and when the newest came."""
    since = datetime.now(UTC) - timedelta(days=1)
    pages = (
        boto3.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=f"/aws/lambda/{pipeline.function}",
            startTime=int(since.timestamp() * 1000),
            filterPattern=pattern,
        )
    )
    times = [event["timestamp"] for page in pages for event in page["events"]]
    newest = datetime.fromtimestamp(max(times) / 1000, UTC).isoformat(timespec="seconds") if times else ""
    return len(times), newest


if __name__ == "__main__":
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION", "us-east-1"))
    main()
