"""One small pipeline for each example: real handlers, SDK and stand-in, and the checks that hold after any input."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar
from unittest import mock

from botocore.exceptions import ClientError

from faults import FaultProxy
from firebolt_cdc import cleanup, core, deadline, ledger, loader, migrate
from firebolt_cdc.errors import CdcError, UnexpectedError
from firebolt_cdc.errors import classified as classify
from firebolt_cdc.events import Delivery
from firebolt_cdc.files import FileVersion
from standin import StandIn
from support import forget
from wire.world import BIRTH, MODULE, PREFIX, SOURCE, Clock, Invocation, Message
from wire.world import Lab as WireLab

T = TypeVar("T")
Record = dict[str, Any]

LONGEST_SECONDS = 60.0
"""More than any example takes on a busy machine: what takes longer hangs."""
TIMEOUT_SECONDS = 60.0
TABLES: dict[str, Any] = {
    "t/merge": {"target": "merge", "mode": "merge", "primary_key": ["id"]},
    "t/log": {"target": "log", "mode": "append"},
}
FOREIGN = "foreign/"
"""Another pipeline in the same database, whose rows nobody may touch."""
CANARIES = (
    "CREATE TABLE canary (id INT NOT NULL, v TEXT NULL)",
    "INSERT INTO canary VALUES (1, 'alive')",
    "INSERT INTO cdc_tables (turn, pipeline, version, generation, order_format, updated_at) "
    f"VALUES ('theirs', '{FOREIGN}', 0, 1, 'file', CURRENT_TIMESTAMP)",
    "INSERT INTO cdc_processed_files (file_key, status, file_id, pipeline, turn, bucket, object_key, etag, "
    f"recorded_status, alone_count) VALUES ('f', 'failed', 'theirs', '{FOREIGN}', 'theirs', 'foreign', 'f', 'e', "
    "'failed', 0)",
    "INSERT INTO cdc_applied (applied_id, file_id, key_id, pipeline, target_table, generation, file_key, etag, kind, "
    f"load_id, applied_at) VALUES ('theirs', 'theirs', 'theirs', '{FOREIGN}', 'theirs', 1, 'f', 'e', 'change', "
    "'theirs', CURRENT_TIMESTAMP)",
)
PROTECTED = (
    "SELECT * FROM canary",
    "SELECT * FROM cdc_schema_migrations ORDER BY 1",
    *(f"SELECT * FROM {t} WHERE pipeline = '{FOREIGN}'" for t in ("cdc_tables", "cdc_processed_files", "cdc_applied")),
)

_QUOTED = re.compile(r"""'(?:''|[^'])*'|"(?:""|[^"])*\"""")
_NAME = '"(?:""|[^"])*"'
_KINDS = re.compile(
    r"(?:BEGIN|COMMIT|ROLLBACK)(?: TRANSACTION)?$"
    r"|SELECT "
    r"|UPDATE (?P<update>cdc_\w+) SET "
    rf"|INSERT INTO (?P<insert>cdc_\w+|{_NAME}) ?\("
    r"|DELETE FROM (?P<delete>cdc_processed_files|cdc_duplicate_deliveries|cdc_tombstones) WHERE "
    rf"|MERGE INTO (?P<merge>{_NAME}) AS t USING "
    rf"|CREATE TABLE IF NOT EXISTS (?P<create>{_NAME}) \("
    rf"|ALTER TABLE (?P<alter>{_NAME}) ADD COLUMN IF NOT EXISTS {_NAME} "
)
_NEVER = re.compile(r"\b(?:DROP|TRUNCATE|GRANT|REVOKE|COPY|ATTACH|EXECUTE|CALL)\b", re.IGNORECASE)


class BrokenError(AssertionError):
    """An input ended in none of the ways that are allowed."""


def bounded(action: Callable[[], T], seconds: float = LONGEST_SECONDS) -> T:
    """Run an action in a thread of its own, so that one that hangs is a failure and not a run without end."""
    answer: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(action())
        except BaseException as caught:  # noqa: BLE001 - raised again below
            error.append(caught)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise BrokenError(f"no answer after {seconds} seconds")
    if error:
        raise error[0]
    return answer[0]


def readable(action: Callable[[], T]) -> tuple[T | None, str]:
    """Run an action that may refuse its input; its answer and "accepted", or None and the class of the refusal.

    Raises:
        BrokenError: it failed in another way, hangs, or does not say why.
    """
    try:
        return bounded(action), "accepted"
    except BrokenError:
        raise
    except CdcError as error:
        if isinstance(error, UnexpectedError) or not str(error).strip():
            raise BrokenError(f"not a readable refusal: {error!r}") from error
        return None, f"refused: {error.failure_class}"
    except Exception as error:
        raise BrokenError(f"not a classified error: {error!r}") from error


def check_statement(sql: str, targets: Sequence[str]) -> None:
    """Hold one statement against what the product means to send: one statement of a known kind, on a known table.

    Raises:
        BrokenError: it is something else, so a value or name got out of its quotes.
    """
    outside = _QUOTED.sub("?", sql)
    if re.search(r"""--|/\*|;|['"]""", outside):
        raise BrokenError(f"a quote, comment or semicolon stands outside of quotes: {sql}")
    found = _KINDS.match(sql)
    if found is None or _NEVER.search(outside):
        raise BrokenError(f"not a statement that the product means to send: {sql}")
    for table in filter(None, found.groupdict().values()):
        if table.startswith('"') and table[1:-1].replace('""', '"') not in targets:
            raise BrokenError(f"writes the table {table}, which is none of {list(targets)}: {sql}")


class Lab(WireLab):
    """Shared by all examples: AWS in this process and a migrated engine with canaries in it."""

    def __enter__(self) -> Lab:
        super().__enter__()
        self.sqs.meta.events.register("before-parameter-build.sqs.SendMessage", _sqs_rules)
        self.sqs.meta.events.register("before-parameter-build.sqs.SendMessageBatch", _sqs_rules)
        with StandIn(self.template) as engine:
            for sql in CANARIES:
                ask(engine, sql)
        return self

    def configure(self, url: str, **changes: Any) -> None:
        """Write a configuration and make the product forget the last one."""
        body = json.dumps(self.configuration(url) | changes).encode()
        self.s3.put_object(Bucket=MODULE, Key="config.json", Body=body)
        forget()

    def configuration(self, url: str) -> dict[str, Any]:
        """The plain configuration."""
        return {
            "name": "fuzz",
            "source": {"bucket": SOURCE, "prefix": PREFIX},
            "firebolt": {"database": "firebolt", "core_url": url},
            "queue": {"url": self.queue, "arn": "q", "dlq_url": self.dlq, "dlq_arn": "d"},
            "staging": {"bucket": MODULE},
            "tables": TABLES,
            "cleanup": {"reconcile_grace_seconds": 0, "sweep_interval_seconds": 30},
        }


def _sqs_rules(params: dict[str, Any], **_: Any) -> None:
    """What SQS refuses and moto takes: characters that XML 1.0 does not have, empty values (SQS, SendMessage)."""
    for message in params.get("Entries", [params]):
        values = [a["StringValue"] for a in message.get("MessageAttributes", {}).values()]
        for text in [message["MessageBody"], *values]:
            if not text or re.search(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text):
                error = {"Code": "InvalidMessageContents", "Message": f"SQS refuses {text[:50]!r}"}
                raise ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": 400}}, "SendMessage")


def ask(engine: StandIn, sql: str) -> list[list[Any]]:
    """Run one statement in the engine itself, past SDK and proxy; its rows.

    Raises:
        ValueError: the engine refused it.
    """
    reply = engine.answer("POST", "/?database=firebolt&output_format=JSON_Compact", {}, sql.encode())
    if reply.status != 200:
        raise ValueError(f"{sql}: {reply.body.decode()}")
    answer = json.loads(reply.body) if reply.body.strip() else {}
    if answer.get("errors"):
        raise ValueError(f"{sql}: {answer['errors']}")
    return list(answer.get("data", []))


def literal(value: object) -> str:
    """A value in SQL."""
    if value is None or isinstance(value, (int, float)):
        return "NULL" if value is None else str(value)
    return "'" + str(value).replace("'", "''").replace("\0", "") + "'"


class Bench:
    """One example's pipeline."""

    def __init__(self, lab: Lab, *, targets: Sequence[str] = ("merge", "log"), **changes: Any) -> None:
        self.lab = lab
        self.targets = list(targets)
        """Tables that this example may create, change and write, besides the ledger's."""
        self.clock = Clock()
        self.unexpected: list[str] = []
        self.dead: list[Message] = []
        self.waiting: list[Message] = []
        self._stack = ExitStack()
        lab.clear()
        state = Path(tempfile.mkdtemp(dir=lab.scratch))
        self._stack.callback(shutil.rmtree, state)
        shutil.copytree(lab.template, state, dirs_exist_ok=True)
        endpoint = lab.s3.meta.endpoint_url
        enter = self._stack.enter_context
        self.engine = enter(StandIn(state, s3_endpoint=endpoint, clock=self.clock.now))
        self.proxy = enter(FaultProxy(self.engine))
        enter(mock.patch.object(deadline, "time", SimpleNamespace(monotonic=self.clock.monotonic)))
        for module in (ledger, loader):
            enter(mock.patch.object(module, "time", SimpleNamespace(sleep=self.clock.sleep)))
        enter(mock.patch.object(core, "time", SimpleNamespace(time=lambda: BIRTH.timestamp() + self.clock.seconds)))
        enter(mock.patch.object(loader, "classified", self._classified))
        lab.configure(self.proxy.url, **changes)
        self._catalog = self._tables()
        self._protected = [ask(self.engine, sql) for sql in PROTECTED]

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _classified(self, error: Exception, doing: str) -> CdcError:
        failure = classify(error, doing)
        if isinstance(failure, UnexpectedError):
            self.unexpected.append("".join(traceback.format_exception(error)))
        return failure

    def sql(self, sql: str) -> list[list[Any]]:
        """Run a statement in the engine, past SDK and proxy."""
        return ask(self.engine, sql)

    def put(self, key: str, body: bytes) -> str | None:
        """Put an object; its etag, or None where S3 (or moto) does not take such a key."""
        try:
            return str(self.lab.s3.put_object(Bucket=SOURCE, Key=key, Body=body)["ETag"]).strip('"')
        except (ClientError, ValueError):
            return None

    def invoke(self, event: Any) -> tuple[Any, str]:
        """Invoke the loader with any event; see `readable`."""
        return readable(lambda: loader.handler(event, Invocation(TIMEOUT_SECONDS)))

    def clean(self, task: str) -> tuple[Any, str]:
        """Run a task of the cleanup function."""
        return readable(lambda: cleanup.handler({"task": task}, Invocation(TIMEOUT_SECONDS)))

    def migrate(self) -> tuple[Any, str]:
        """Run the migrate function."""
        return readable(lambda: migrate.handler({}, Invocation(TIMEOUT_SECONDS)))

    def batch(self, records: Sequence[Record]) -> set[str]:
        """Deliver one batch; the message ids that were not acknowledged."""
        answer, ending = self.invoke({"Records": list(records)})
        if answer is None:
            raise BrokenError(f"a batch raised and takes good messages along: {ending}")
        self.collect()
        return {item["itemIdentifier"] for item in answer["batchItemFailures"]}

    def announce(self, key: str, etag: str | None, number: int = 0) -> Record:
        """A record that announces an object as EventBridge does."""
        detail = {"bucket": {"name": SOURCE}, "object": {"key": key} | ({"etag": etag} if etag else {})}
        return record(json.dumps({"detail": detail}), str(number))

    def drain(self, rounds: int = 6) -> None:
        """Deliver what waits on the queue, until nothing waits; what a person or clock must free stays."""
        for _ in range(rounds):
            self.collect()
            batch, self.waiting = self.waiting, []
            if not batch:
                return
            left = self.batch([message(m, number) for number, m in enumerate(batch)])
            self.waiting += [m for number, m in enumerate(batch) if str(number) in left]
            self.clock.sleep(TIMEOUT_SECONDS + 1)

    def collect(self) -> None:
        """Take what was sent off both queues."""
        self.waiting += self.lab.take("wire-queue")
        self.dead += self.lab.take("wire-dlq")

    def ending(self, delivery: Delivery) -> str | None:
        """What became of an acknowledged delivery; None if it is lost."""
        etags = {delivery.etag} if delivery.etag else self._etags(delivery)
        ids = ", ".join(literal(FileVersion(delivery.bucket, delivery.key, e or "").file_id) for e in etags)
        if self.sql(f"SELECT 1 FROM cdc_applied WHERE file_id IN ({ids})"):
            return "loaded"
        rows = self.sql(f"SELECT status, error_class FROM cdc_processed_files WHERE file_id IN ({ids})")
        for sent, name in ((self.waiting, "a copy waits"), (self.dead, "dead letter")):
            if any(_announces(m, delivery) for m in sent):
                return name
        return "ledger: " + " ".join(str(v) for v in rows[0] if v is not None) if rows else None

    def _etags(self, delivery: Delivery) -> set[str | None]:
        """Without an etag the loader looks the object up; what is missing is written down without."""
        found: set[str | None] = {None}
        try:
            found.add(self.lab.s3.head_object(Bucket=delivery.bucket, Key=delivery.key)["ETag"].strip('"'))
        except Exception:  # noqa: BLE001 - any name may have been announced
            return found
        return found

    def check(self) -> None:
        """What holds after any input: no defect, no injected SQL, nothing changed but what is this pipeline's."""
        if self.unexpected:
            raise BrokenError(f"a defect of the loader: {self.unexpected[0]}")
        if self.proxy.broken:
            raise BrokenError(f"the stand-in failed: {self.proxy.broken[0]}")
        for call in self.proxy.calls:
            check_statement(call.sql, self.targets)
        protected = [self.sql(sql) for sql in PROTECTED]
        if protected != self._protected:
            raise BrokenError(f"protected rows changed: {self._protected} to {protected}")
        catalog = self._tables()
        for table in set(catalog) - set(self._catalog):
            if table not in self.targets:
                raise BrokenError(f"the table {table!r} appeared")
        for table, columns in self._catalog.items():
            if table not in self.targets and catalog.get(table) != columns:
                raise BrokenError(f"the table {table!r} changed from {columns} to {catalog.get(table)}")

    def _tables(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for table, *column in self.sql(
            "SELECT table_name, column_name, data_type FROM information_schema.columns ORDER BY ordinal_position"
        ):
            found.setdefault(table, []).append(column)
        return found


def record(body: Any, message_id: Any = "0", **more: Any) -> Record:
    """One SQS record."""
    return {"messageId": message_id, "eventSource": "aws:sqs", "body": body, "messageAttributes": {}, **more}


def message(sent: Message, number: int) -> Record:
    """A message on the queue as the event source mapping hands it out."""
    attributes = {name: {"stringValue": value, "dataType": "String"} for name, value in sent.attributes.items()}
    return record(sent.body, str(number), messageAttributes=attributes)


def _announces(sent: Message, delivery: Delivery) -> bool:
    try:
        body = json.loads(sent.body)
    except (ValueError, RecursionError):
        return False
    if body == delivery.body:
        return True
    detail = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(detail, dict):
        return False
    thing = detail.get("object", {})
    return (detail.get("bucket", {}).get("name"), thing.get("key"), thing.get("etag")) == (
        delivery.bucket,
        delivery.key,
        delivery.etag,
    )
