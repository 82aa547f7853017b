"""The doctor's questions: each is answered well, or with what is wrong and what to do. Nothing is changed."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import ClientError

from firebolt_cdc import aws, migrations
from firebolt_cdc.deployed import ALIAS, Pipeline
from firebolt_cdc.errors import AWS_ERRORS, CdcError, PermanentError, TransientError, aws_error
from firebolt_cdc.sql import read_parquet
from firebolt_cdc.storage import Storage
from firebolt_cdc.telemetry import STEP_CHECK

READ_FILES = 3
"""How many files of the source the engine is asked to read, until it can read one."""
LOGGED_BY = "INFO"
"""The level of the lines with the steps."""


@dataclass(frozen=True)
class Finding:
    """One answer of the doctor."""

    question: str
    good: bool
    answer: str


Answer = Callable[[Pipeline], str]
"""What is said where all is well. It raises where not, with what is wrong and what to do."""


def examine(find: Callable[[], Pipeline]) -> list[Finding]:
    """Ask everything that can be asked; `find` reads the loader and its configuration."""
    findings: list[Finding] = []
    found: list[Pipeline] = []

    def ask(question: str, answer: Callable[[], str]) -> bool:
        try:
            findings.append(Finding(question, True, answer()))
        except CdcError as error:
            findings.append(Finding(question, False, str(error)))
        except AWS_ERRORS as error:
            findings.append(Finding(question, False, str(aws_error(error, question))))
        return findings[-1].good

    def describe() -> str:
        found.append(find())
        return _describe(found[0])

    if ask("The loader and its configuration can be read", describe):
        pipeline = found[0]
        ask(f"The alias {ALIAS} points to a published version", lambda: _version(pipeline))
        reachable = ask("The ledger can be read", lambda: _ledger(pipeline))
        for question, answer in LEDGER_QUESTIONS.items() if reachable else ():
            ask(question, functools.partial(answer, pipeline))
        for question, answer in QUESTIONS.items():
            ask(question, functools.partial(answer, pipeline))
    return findings


def _describe(pipeline: Pipeline) -> str:
    config, firebolt = pipeline.config, pipeline.config.firebolt
    where = firebolt.core_url or f"{firebolt.account_name}/{firebolt.engine_name}"
    return f"{config.name}: s3://{config.source.pipeline} to {where}, {len(config.tables)} tables"


def _version(pipeline: Pipeline) -> str:
    if not pipeline.version.isdigit():
        raise PermanentError(
            f"it points to {pipeline.version or 'none'}, whose code and configuration may change under it: "
            "terraform apply sets it"
        )
    return f"version {pipeline.version} of {pipeline.function}"


def _ledger(pipeline: Pipeline) -> str:
    rows = pipeline.engine.query(
        "SELECT COUNT(*) FROM cdc_processed_files WHERE pipeline = ?", [pipeline.config.source.pipeline]
    )
    return f"{rows[0][0]} files in cdc_processed_files"


def _schema(pipeline: Pipeline) -> str:
    migrations.require(pipeline.engine)
    return f"version {migrations.REQUIRED_VERSION} or a compatible newer one"


def _turns(pipeline: Pipeline) -> str:
    rows = pipeline.engine.query("SELECT turn, pipeline FROM cdc_tables")
    owners = {str(row[0]): str(row[1]) for row in rows}
    mine = pipeline.config.source.pipeline
    missing = [turn for turn in pipeline.config.turns if owners.get(turn) != mine]
    if missing:
        raise PermanentError(f"no turn, or another pipeline's, for {missing[:10]}: run `firebolt-cdc migrate --yes`")
    return f"{len(pipeline.config.turns)} turns"


def _leases(pipeline: Pipeline) -> str:
    rows = pipeline.engine.query(
        "SELECT turn, lease_until FROM cdc_tables WHERE pipeline = ? AND holder IS NOT NULL "
        "AND lease_until <= CURRENT_TIMESTAMP",
        [pipeline.config.source.pipeline],
    )
    if rows:
        raise TransientError(f"{[str(row[0]) for row in rows]}: the sweep frees them; is the cleanup function running?")
    return "none"


def _read(pipeline: Pipeline) -> str:
    """The engine's own way to S3: its role, or the rights of a Core."""
    storage, refusals = Storage(aws.client("s3"), pipeline.config), []
    for info in itertools.islice(storage.first_objects(pipeline.config.source.prefix), READ_FILES):
        reading, parameters = read_parquet(pipeline.config, source=info.version.key)
        try:
            rows = pipeline.engine.query(f"SELECT COUNT(*) FROM {reading}", parameters)
            return f"{info.version.key} has {rows[0][0]} rows"
        except CdcError as error:
            refusals.append(f"{info.version.key}: {error}")
    if not refusals:
        return "not tried: there is no file yet"
    raise PermanentError(
        f"none of {len(refusals)} file(s), so it may not read S3: give the role of firebolt.s3_role_arn the module's "
        f"output firebolt_s3_policy (a Core: its own rights). Or these files are damaged; the last: {refusals[-1]}"
    )


def _source(pipeline: Pipeline) -> str:
    source = pipeline.config.source
    answer = boto3.client("s3").list_objects_v2(Bucket=source.bucket, Prefix=source.prefix, MaxKeys=1)
    return f"s3://{source.bucket}/{source.prefix}: {'has objects' if answer.get('KeyCount') else 'is empty'}"


def _bucket_events(pipeline: Pipeline) -> str:
    bucket = pipeline.config.source.bucket
    answer = boto3.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    if "EventBridgeConfiguration" not in answer:
        raise PermanentError(
            f"EventBridge is off at the bucket {bucket}: no file is announced; switch it on (its owner, "
            "or source_bucket.manage_eventbridge_notification)"
        )
    return "EventBridge is on"


def _rule(name: str) -> dict[str, Any] | None:
    """A rule of EventBridge; None where there is none of this name.

    Raises:
        PermanentError: it is disabled.
    """
    events = boto3.client("events")
    try:
        rule: dict[str, Any] = events.describe_rule(Name=name)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
            return None
        raise
    if rule.get("State") == "DISABLED":
        raise PermanentError(
            f"the rule {name} is disabled, which this module never does: aws events enable-rule --name {name}"
        )
    return rule


def _object_rule(pipeline: Pipeline) -> str:
    name = f"{pipeline.config.name}-objects"
    if _rule(name) is None:
        raise PermanentError(
            f"there is no rule {name}: files are found by the reconciliation only; run terraform apply"
        )
    return f"the rule {name} is enabled"


def _schedule(pipeline: Pipeline, task: str, without: str) -> str:
    """A schedule that is `off` has no rule: whoever set it so knows it, and it is said what that means."""
    name = f"{pipeline.config.name}-{task}"
    rule = _rule(name)
    if rule is None:
        return f'there is no rule {name} (cleanup.{task}_schedule = "off"): {without}'
    return f"the rule {name} is enabled, {rule.get('ScheduleExpression', 'without a schedule')}"


def _loop(pipeline: Pipeline) -> str:
    answer = boto3.client("lambda").get_function_recursion_config(FunctionName=pipeline.function)
    if answer["RecursiveLoop"] != "Allow":
        raise PermanentError(
            "Lambda drops files that wait longer than some 16 rounds: run aws lambda put-function-recursion-config "
            f"--function-name {pipeline.function} --recursive-loop Allow"
        )
    return "recursive loop detection lets them"


def _sweep(pipeline: Pipeline) -> str:
    without = "what crashed workers left, and files that a person sets to pending, wait for a sweep by hand"
    return _schedule(pipeline, "sweep", without)


def _reconciliation(pipeline: Pipeline) -> str:
    return _schedule(pipeline, "reconcile", "a file whose event got lost waits for a reconciliation by hand")


def _intake(pipeline: Pipeline) -> str:
    queue = pipeline.config.queue.arn
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate(EventSourceArn=queue)
    mappings = [mapping for page in pages for mapping in page["EventSourceMappings"]]
    mine = [mapping for mapping in mappings if f":function:{pipeline.function}:" in f"{mapping['FunctionArn']}:"]
    if not mine:
        raise PermanentError(f"nothing takes messages from {queue} for {pipeline.function}: run terraform apply")
    state, mark = mine[0].get("State", "unknown"), mine[0]["UUID"]
    if state in ("Disabled", "Disabling"):
        raise PermanentError(
            "paused: files wait in the queue. To resume, set loader = { paused = false } and run terraform apply; or, "
            f"where it was paused by hand, run aws lambda update-event-source-mapping --uuid {mark} --enabled"
        )
    return f"its event source mapping is {str(state).lower()}"


def _dead_letters(pipeline: Pipeline) -> str:
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


def _steps(pipeline: Pipeline) -> str:
    number, newest = _logged(pipeline, f'"{STEP_CHECK}"')
    if number:
        return f"{number} in the last day, the newest at {newest}"
    files, claimed = _claimed(pipeline)
    if not files:
        return "none in the last day, and no file came"
    level = pipeline.environment.get("POWERTOOLS_LOG_LEVEL", LOGGED_BY).upper()
    levels = logging.getLevelNamesMapping()
    if levels.get(level, logging.INFO) > levels[LOGGED_BY]:
        return (
            f"loader.log_level = {level} leaves them out of the log; the ledger has {files} new file(s) of the last day"
        )
    raise PermanentError(
        f"the ledger has {files} new file(s) of the last day that {pipeline.function} claimed, newest at {claimed}, "
        f"but /aws/lambda/{pipeline.function} has no line {STEP_CHECK!r}. If loader.log_level was {level} all the time "
        "and the function's role may write to that log group, other code runs under its name: see aws lambda "
        f'get-function --function-name {pipeline.function}:{ALIAS} (runbook, "Code that was put in by hand")'
    )


def _claimed(pipeline: Pipeline) -> tuple[int, str]:
    """How many files this loader was the first to claim in the last day, and when the newest came.

    A line is logged before its file is claimed and can be read a little later, so the claims are those of a somewhat
    shorter time.
    """
    rows = pipeline.engine.query(
        "SELECT lambda_arn, COUNT(*), MAX(first_seen_at) FROM cdc_processed_files WHERE pipeline = ? "
        "AND first_seen_at >= CURRENT_TIMESTAMP - INTERVAL '23' HOUR "
        "AND first_seen_at <= CURRENT_TIMESTAMP - INTERVAL '1' MINUTE GROUP BY lambda_arn",
        [pipeline.config.source.pipeline],
    )
    name = f":function:{pipeline.function}:"
    mine = [(int(number), newest) for arn, number, newest in rows if name in f"{arn}:"]
    return sum(number for number, _ in mine), str(max((newest for _, newest in mine), default=""))


def _errors(pipeline: Pipeline) -> str:
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


LEDGER_QUESTIONS: dict[str, Answer] = {
    "The schema is one that this version works with": _schema,
    "Every table of the map has its turn": _turns,
    "No turn is held past its lease": _leases,
    "The engine can read the source": _read,
}
"""They need a ledger that can be read."""
QUESTIONS: dict[str, Answer] = {
    "The source bucket can be listed": _source,
    "The source bucket sends events to EventBridge": _bucket_events,
    "The rule hands new objects to the queue": _object_rule,
    "The loader takes messages from the queue": _intake,
    "Files may wait as long as they must": _loop,
    "The cleanup function sweeps": _sweep,
    "The cleanup function reconciles": _reconciliation,
    "The dead-letter queues are empty": _dead_letters,
    "The deduplication steps are called": _steps,
    "No 'Error checking if file processed' in the last day": _errors,
}
