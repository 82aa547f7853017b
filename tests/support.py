"""A pipeline in one process: the real handlers and SDK, a Firebolt stand-in, and moto's server for S3 and SQS."""

from __future__ import annotations

import functools
import io
import json
import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from firebolt.client.auth import FireboltCore
from firebolt.common import statement_formatter
from firebolt.db import connect
from firebolt.utils import usage_tracker
from moto.s3 import urls as s3_urls
from moto.s3.models import S3Backend, s3_backends

from firebolt_cdc import cleanup, loader, migrate, migrations

PREFIX = "firebolt_dms_job/"
ACCOUNT = "123456789012"
"""Moto's."""


@contextmanager
def cheaper() -> Iterator[None]:
    """What the SDKs and moto do again for every client, statement or request is done once; no answer differs."""
    with ExitStack() as stack:
        enter = stack.enter_context
        # httpx reads all root certificates for every client.
        enter(mock.patch("ssl.create_default_context", functools.cache(ssl.create_default_context)))
        # The SDK looks through the whole stack, with its sources, for the tools that it might run under.
        enter(mock.patch.object(usage_tracker, "detect_connectors", return_value={}))
        # It parses every statement; of the result it only reads.
        parse = functools.lru_cache(1000)(statement_formatter.parse_sql)
        enter(mock.patch.object(statement_formatter, "parse_sql", parse))
        # moto reads its table of URLs again.
        enter(mock.patch.object(S3Backend, "_url_module", s3_urls))
        yield


def use_aws(url: str) -> None:
    """Point boto3 at a local server."""
    os.environ.update(
        AWS_ENDPOINT_URL=url,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="eu-west-1",
    )


class KilledError(BaseException):
    """Stands for SIGKILL in one process: nothing of the worker runs after it."""


def forget() -> None:
    """Make the product forget what the process remembers of its configuration, as a new one would not know it."""
    loader._config.cache_clear()
    loader._client.cache_clear()
    migrations._checked.clear()


@dataclass
class Context:
    """Lambda's context object."""

    timeout_seconds: float = 60.0
    function_name: str = "test-loader"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:test-loader:PROD"
    aws_request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.timeout_seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - time.monotonic()) * 1000))


Command = Callable[..., Any]
"""Runs a command of `firebolt-cdc` and returns what it printed as JSON."""


class Rows:
    """SQL for tests, on a connection of its own."""

    def __init__(self, url: str, database: str = "firebolt") -> None:
        self._connection = connect(auth=FireboltCore(), url=url, database=database)

    def __call__(self, sql: str, *parameters: Any) -> list[list[Any]]:
        cursor = self._connection.cursor()
        cursor.execute(sql, list(parameters) or None)
        return [list(row) for row in cursor.fetchall()] if cursor.description else []

    def close(self) -> None:
        self._connection.close()

    def value(self, sql: str, *parameters: Any) -> Any:
        return self(sql, *parameters)[0][0]


def table_config(target: str, key: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """An entry of the table map."""
    return {"target": target, "mode": "merge" if key else "append", "primary_key": list(key), **more}


def parquet(columns: dict[str, Any], schema: pa.Schema | None = None) -> bytes:
    """A Parquet file of these columns."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()


SESSIONS = pa.schema(
    [("Op", pa.string()), ("sid", pa.int64()), ("user", pa.string()), ("amount", pa.decimal128(10, 2))]
)


def sessions(*rows: tuple[str, int, str | None]) -> bytes:
    """Changes of the sessions table: (operation, sid, user)."""
    ops, sids, users = zip(*rows, strict=True) if rows else ((), (), ())
    amounts = [None] * len(rows)
    return parquet({"Op": list(ops), "sid": list(sids), "user": list(users), "amount": amounts}, SESSIONS)


PAST_SECONDS = 100
"""So far back S3's clock stands, for the seconds by which tests advance it: nothing is written in the future."""


class Pipeline:
    """One configured pipeline with its buckets, queues and tables.

    S3's clock stands still but for `later`.
    """

    def __init__(self, core_url: str, tables: dict[str, Any] | None = None, **settings: Any) -> None:
        self.s3_time: datetime | None = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=PAST_SECONDS)
        """None where it is compared with the engine's: then both are this machine's."""
        mark = uuid.uuid4().hex[:8]
        self.s3, self.sqs = boto3.client("s3"), boto3.client("sqs")
        self.bucket, self.module_bucket = f"source-{mark}", f"module-{mark}"
        for bucket in (self.bucket, self.module_bucket):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.queue = self.sqs.create_queue(QueueName=f"queue-{mark}")["QueueUrl"]
        self.dlq = self.sqs.create_queue(QueueName=f"dlq-{mark}")["QueueUrl"]
        self.config: dict[str, Any] = {
            "name": f"test-{mark}",
            "source": {"bucket": self.bucket, "prefix": PREFIX},
            "firebolt": {"database": "firebolt", "core_url": core_url},
            "queue": {"url": self.queue, "arn": "arn:q", "dlq_url": self.dlq, "dlq_arn": "arn:d"},
            "staging": {"bucket": self.module_bucket},
            "tables": tables
            or {"fair/sessions": table_config("sessions", ["sid"]), "fair/events": table_config("events")},
            "cleanup": {"reconcile_grace_seconds": 0},
            **settings,
        }
        self.sql = Rows(core_url)
        self.configure()

    def configure(self, **changes: Any) -> None:
        """Write the configuration, as Terraform would, and forget what the process remembers of it."""
        self.config |= changes
        self.s3.put_object(Bucket=self.module_bucket, Key="config/config.json", Body=json.dumps(self.config).encode())
        os.environ.update(CDC_CONFIG_BUCKET=self.module_bucket, CDC_CONFIG_KEY="config/config.json")
        forget()

    def migrate(self, **event: Any) -> dict[str, Any]:
        return migrate.handler(event, Context())

    def clean(self, task: str | None = None, **context: Any) -> dict[str, Any]:
        return cleanup.handler({"task": task} if task else {}, Context(**context))

    def put(self, key: str, body: bytes) -> dict[str, Any]:
        """Put an object below the prefix; returns the event that S3 sends for it."""
        etag = self.s3.put_object(Bucket=self.bucket, Key=PREFIX + key, Body=body)["ETag"].strip('"')
        if self.s3_time is not None:
            stored = s3_backends[ACCOUNT]["aws"].buckets[self.bucket].keys[PREFIX + key]
            stored.last_modified = self.s3_time.replace(tzinfo=None)
        thing = {"key": PREFIX + key, "etag": etag, "size": len(body)}
        return {
            "detail-type": "Object Created",
            "source": "aws.s3",
            "detail": {"bucket": {"name": self.bucket}, "object": thing},
        }

    def later(self) -> None:
        """What is put from now on is newer, for S3, which keeps whole seconds."""
        if self.s3_time is None:
            time.sleep(1.1)
        else:
            self.s3_time += timedelta(seconds=1)
            assert self.s3_time < datetime.now(UTC)

    def by_hand(self, key: str, **context: Any) -> dict[str, Any]:
        """Invoke as the guide does, with bucket and key only."""
        event = {"detail": {"bucket": {"name": self.bucket}, "object": {"key": PREFIX + key}}}
        return loader.handler(event, Context(**context))

    def deliver(self, *events: dict[str, Any] | str, **context: Any) -> list[str]:
        """Deliver events as one SQS batch; returns the numbers of those that were not acknowledged."""
        records = [
            {
                "messageId": str(number),
                "eventSource": "aws:sqs",
                "body": event if isinstance(event, str) else json.dumps(event),
                "attributes": {},
                "messageAttributes": {},
            }
            for number, event in enumerate(events)
        ]
        return self.deliver_records(records, **context)

    def deliver_records(self, records: list[dict[str, Any]], **context: Any) -> list[str]:
        """The same, of records as SQS hands them to Lambda."""
        answer = loader.handler({"Records": records}, Context(**context))
        return [item["itemIdentifier"] for item in answer["batchItemFailures"]]

    def take(self, url: str, wait: bool = False) -> list[dict[str, Any]]:
        """Take every message off a queue, with its attributes; with `wait`, delayed ones too (up to 15 seconds)."""
        found: list[dict[str, Any]] = []
        end = time.monotonic() + 15
        last = False
        while True:
            answer = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
            for message in answer.get("Messages", []):
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message)
            if not answer.get("Messages"):
                if found or not wait or last or time.monotonic() > end:
                    return found
                last = not self.delayed(url)  # what was delayed may have come due since the last look
                time.sleep(0.1)

    def delayed(self, url: str) -> int:
        """How many messages of a queue nobody can take yet."""
        name = "ApproximateNumberOfMessagesDelayed"
        return int(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])

    def drain(self, rounds: int = 20) -> None:
        """Deliver what is on the queue until it is empty, as the event source mapping would."""
        for _ in range(rounds):
            messages = self.take(self.queue, wait=True)
            if not messages:
                return
            assert self.deliver_records([as_record(message) for message in messages]) == []

    def ledger(self) -> dict[str, tuple[str, str | None]]:
        """Status and error class by file key."""
        return {r[0]: (r[1], r[2]) for r in self.sql("SELECT file_key, status, error_class FROM cdc_processed_files")}


def as_record(message: dict[str, Any]) -> dict[str, Any]:
    """A message that was received from SQS, as the event source mapping hands it to Lambda."""
    attributes = message.get("MessageAttributes", {})
    return {
        "messageId": message["MessageId"],
        "eventSource": "aws:sqs",
        "body": message["Body"],
        "attributes": {},
        "messageAttributes": {name: {"stringValue": value["StringValue"]} for name, value in attributes.items()},
    }


def repository() -> Path:
    """The project's root."""
    return Path(__file__).resolve().parents[1]
