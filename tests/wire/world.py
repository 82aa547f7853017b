"""One pipeline in virtual time: workers that pause, die and wake up, a faulty network, and an oracle that knows better.

Product code runs in threads, one at a time: a worker runs until it ends, or until it reaches the statement (or AWS
call) at which it is to pause or die. So every interleaving of workers is possible, and a history is given by its
arguments. Time is virtual: the engine's clock, S3's and each worker's. A paused worker's own clock stands still, as
that of a frozen Lambda does; what it believes of its lease is then wrong.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import random
import shutil
import ssl
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any
from unittest import mock

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
from botocore.exceptions import ConnectionClosedError
from firebolt.common import statement_formatter
from moto import mock_aws
from moto.s3 import urls as s3_urls
from moto.s3.models import S3Backend, s3_backends
from moto.sqs.models import sqs_backends

from faults import Call, Fault, FaultProxy
from firebolt_cdc import cleanup, core, deadline, ledger, loader, migrate, queues
from firebolt_cdc import engine as engine_module
from firebolt_cdc import reload as reload_module
from firebolt_cdc.errors import CdcError, ConflictError
from firebolt_cdc.ledger import ANEW
from firebolt_cdc.plan import Item, NothingToReloadError, Plan, UndecidedError
from firebolt_cdc.reload import Reload
from standin import StandIn
from standin.catalog import Table
from standin.engine import LIVE, run
from standin.server import Reply
from support import KilledError, forget

ACCOUNT, REGION = "123456789012", "eu-west-1"
SOURCE, MODULE, PREFIX = "wire-source", "wire-module", "dms/"
BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
HARD, SOFT, LOG = "hard", "soft", "log"
TABLES = {
    "t/hard": {"target": HARD, "mode": "merge", "primary_key": ["id"], "reload": "auto"},
    "t/soft": {"target": SOFT, "mode": "merge", "primary_key": ["id"], "deletes": "soft"},
    "t/log": {"target": LOG, "mode": "append", "reload": "auto"},
}
LEDGER = "cdc_processed_files"
RETRY_HELD = f"UPDATE {LEDGER} SET {ANEW} WHERE status <> 'completed' AND error_class = 'held'"
"""What `firebolt-cdc retry --class held` writes: held files are loaded beneath the changes."""
LEASE_SECONDS = 60
RELOAD_SECONDS = 300
"""How long an operator lets a reload take, and hold its table, at most."""
ROWS = pa.schema([("Op", pa.string()), ("id", pa.int64()), ("v", pa.string())])
Change = tuple[str, int, str | None]
Name = tuple[str, str]
"""Key and etag of a version."""


class Violation(AssertionError):
    """The product broke its promise."""


@dataclass
class Clock:
    """Virtual seconds since BIRTH."""

    seconds: float = 0.0

    def now(self) -> datetime:
        """The engine's and S3's time."""
        return BIRTH + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """A worker's own time; it stands still while the worker is paused."""
        job = _running.job
        return self.seconds if job is None else job.seconds

    def sleep(self, seconds: float) -> None:
        """Time goes on, also for the worker that runs now."""
        self.seconds += seconds
        if _running.job is not None:
            _running.job.seconds += seconds


class _Running:
    """The job that runs now; there is never more than one."""

    job: Job | None = None


_running = _Running()


class Job:
    """One invocation of a handler, in a thread that runs only while the world waits for it."""

    def __init__(
        self, name: str, action: Callable[[], Any], pause_at: int | str | tuple[str, ...] = 0, die_at: int = 0
    ) -> None:
        self.name = name
        self.action = action
        self.pause_at, self.die_at = pause_at, die_at
        self.seconds = 0.0
        self.points = 0
        self.batch: list[Message] = []
        self.answer: Any = None
        self.error: BaseException | None = None
        self.trace = ""
        self.state = "new"
        self._mine, self._worlds = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def go(self) -> None:
        """Run until the job ends or pauses."""
        before, _running.job = _running.job, self
        if self.state == "new":
            self._thread.start()
        self.state = "running"
        self._mine.release()
        self._worlds.acquire()
        _running.job = before

    def point(self, sql: str = "") -> None:
        """A place at which the worker may pause or die; called by the worker, before a statement with its SQL."""
        self.points += 1
        if self.points == self.pause_at or (not isinstance(self.pause_at, int) and sql.startswith(self.pause_at)):
            self.pause_at = 0
            self.state = "paused"
            self._worlds.release()
            self._mine.acquire()
        if self.state == "killed" or self.points == self.die_at:
            self.state = "killed"
            raise KilledError

    def kill(self) -> None:
        """End a paused job."""
        if self.state == "paused":
            self.state = "killed"
            self._mine.release()
            self._worlds.acquire()

    def _run(self) -> None:
        self._mine.acquire()
        try:
            self.answer = self.action()
        except BaseException as error:  # noqa: BLE001 - looked at by the world
            self.error, self.trace = error, traceback.format_exc()
        self.state = "killed" if self.state == "killed" else "done"
        self._worlds.release()


@dataclass(frozen=True)
class Version:
    """One object version that was put, with what it holds."""

    key: str
    etag: str
    target: str
    full: bool
    stamp: str
    modified: datetime
    rows: tuple[Change, ...]
    good: bool = True

    @property
    def name(self) -> Name:
        """What tells it from other versions; the same content written again under its key has the same."""
        return self.key, self.etag

    def order(self, modified: datetime, position: int) -> tuple[object, ...]:
        """The place of one of its rows in the source's commit order, where it was written at `modified`."""
        return (0, "", modified, 0) if self.full else (1, self.stamp, modified, position)


@dataclass(frozen=True)
class Line:
    """A line of `cdc_applied`."""

    target: str
    generation: int
    name: Name
    modified: datetime


@dataclass
class FullLoad:
    """A full load of one table, as far as DMS has written it."""

    target: str
    files: set[tuple[Name, datetime]] = field(default_factory=set)
    """With when they were written."""
    rest: list[tuple[str, Sequence[Change]]] = field(default_factory=list)
    """Key (none: a new one) and rows of the files that are still to come."""


@dataclass
class Message:
    """A message on its way to the loader."""

    body: str
    attributes: dict[str, str] = field(default_factory=dict)
    receives: int = 0


class Lab:
    """What all histories share: AWS in this process, a migrated engine as a template, the product's clocks replaced."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Lab:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
        place = {"CDC_CONFIG_BUCKET": MODULE, "CDC_CONFIG_KEY": "config.json"}
        enter = self._stack.enter_context
        enter(mock.patch.dict(os.environ, {**keys, **place}))
        os.environ.pop("AWS_ENDPOINT_URL", None)
        enter(mock_aws())
        enter(mock.patch.object(AmazonCloudWatchEMFProvider, "flush_metrics", lambda self, **_: self.clear_metrics()))
        logging.disable(logging.CRITICAL)
        self._stack.callback(logging.disable, logging.NOTSET)
        cached = functools.cache(boto3.client)
        # The loader's time-outs are left out; the stand-in's client has an endpoint of its own, and no hooks.
        enter(mock.patch("boto3.client", lambda service, config=None, **more: cached(service, **more)))
        # httpx reads all root certificates for every client, which costs more than a statement.
        enter(mock.patch("ssl.create_default_context", functools.cache(ssl.create_default_context)))
        # The SDK parses every statement again, which is the product's few texts all the time; it only reads the result.
        enter(mock.patch.object(statement_formatter, "parse_sql", functools.cache(statement_formatter.parse_sql)))
        # moto reads its table of URLs again for every request to S3.
        enter(mock.patch.object(S3Backend, "_url_module", s3_urls))
        self.s3, self.sqs = boto3.client("s3"), boto3.client("sqs")
        for bucket in (SOURCE, MODULE):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.queue, self.dlq = (self.sqs.create_queue(QueueName=n)["QueueUrl"] for n in ("wire-queue", "wire-dlq"))
        for client in (self.s3, self.sqs):
            client.meta.events.register("before-call", _aws_before)
            client.meta.events.register("after-call", _aws_after)
        fast = Path("/dev/shm")
        self.scratch = Path(enter(_directory(str(fast) if os.access(fast, os.W_OK) else None)))
        self.template = self.scratch / "template"
        with StandIn(self.template, s3_endpoint=f"https://s3.{REGION}.amazonaws.com") as engine:
            self.configure(engine.url)
            migrate.handler({}, Invocation(LEASE_SECONDS))
        enter(mock.patch.object(queues, "delay_seconds", return_value=0))
        enter(mock.patch.object(engine_module, "_run", _gated(engine_module._run)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def configure(self, url: str) -> None:
        """Write the configuration and make the product forget the last one."""
        config = {
            "name": "wire",
            "source": {"bucket": SOURCE, "prefix": PREFIX},
            "firebolt": {"database": "firebolt", "core_url": url},
            "queue": {"url": self.queue, "arn": "q", "dlq_url": self.dlq, "dlq_arn": "d"},
            "staging": {"bucket": MODULE},
            "tables": TABLES,
            "cleanup": {"reconcile_grace_seconds": 0, "sweep_interval_seconds": 30, "reload_quiet_seconds": 0},
        }
        self.s3.put_object(Bucket=MODULE, Key="config.json", Body=json.dumps(config).encode())
        forget()

    def clear(self) -> None:
        """Empty buckets and queues."""
        for bucket in (SOURCE, MODULE):
            s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.clear()
        self.take("wire-queue")
        self.take("wire-dlq")

    def take(self, name: str) -> list[Message]:
        """Every message of a queue, delayed or not."""
        queue = sqs_backends[ACCOUNT][REGION].queues[name]
        found = [
            Message(
                m.body, {n: str(a.get("string_value", a.get("StringValue"))) for n, a in m.message_attributes.items()}
            )
            for m in queue._messages
        ]
        queue._messages.clear()
        return found


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


@contextmanager
def _directory(parent: str | None) -> Iterator[str]:
    path = tempfile.mkdtemp(dir=parent, prefix="wire-")
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass
class Invocation:
    """Lambda's context object, in virtual time."""

    timeout_seconds: float
    function_name: str = "wire"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:wire:PROD"
    aws_request_id: str = "wire"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.timeout_seconds * 1000)


class World:
    """One history on one pipeline. Every method that is not a question is a step; `finish` is the last."""

    def __init__(
        self,
        lab: Lab,
        *,
        rewrite: Callable[[str], str | None] = lambda sql: sql,
        conflict_status: int = 400,
        **options: Any,
    ) -> None:
        self.lab = lab
        self.rewrite = rewrite
        """Changes each statement of the product; None leaves it out. For knock-outs."""
        self.clock = Clock()
        self.versions: dict[tuple[str, str], Version] = {}
        self.current: dict[str, Version] = {}
        self.dms = random.Random(0)
        """Draws when DMS goes on with a full load, beside the campaign's own."""
        self.loads: list[FullLoad] = []
        """Those that may have more than one file."""
        self.messages: list[Message] = []
        self.events: list[Message] = []
        """Every event that S3 ever sent, for duplicates."""
        self.dead: list[Message] = []
        self.paused: list[Job] = []
        self.steps: list[str] = []
        self.count: Counter[str] = Counter()
        self.arms: list[tuple[int | str | tuple[str, ...], tuple[Fault, ...]]] = []
        self.met: dict[int, Fault] = {}
        """Faults that were armed and struck, by the number of the call."""
        self.aws_arms: list[tuple[int, str]] = []
        self._typed = False
        self._asked: set[str] = set()
        """Tables of whose full load the operator has said, since their generation began, that it has older changes."""
        self._generations = dict.fromkeys((HARD, SOFT, LOG), 1)
        self._stamp = 0
        self._seen = -1
        self._stack = ExitStack()
        lab.clear()
        state = Path(tempfile.mkdtemp(dir=lab.scratch))
        self._stack.callback(shutil.rmtree, state)
        shutil.copytree(lab.template, state, dirs_exist_ok=True)
        endpoint = f"https://s3.{REGION}.amazonaws.com"
        self.engine = self._stack.enter_context(
            StandIn(state, s3_endpoint=endpoint, clock=self.clock.now, conflict_status=conflict_status, **options)
        )
        self._reader = self.engine.engine._db.cursor()
        self.proxy = self._stack.enter_context(
            FaultProxy(self.engine, delay=lambda: self.clock.sleep(random.uniform(1, 40)))
        )
        self.proxy.conflict_status = conflict_status
        self.proxy.decide = self._decide
        self._patch(notes=bool(options.get("single_writer")))
        lab.configure(self.proxy.url)

    def _patch(self, *, notes: bool) -> None:
        enter, clock = self._stack.enter_context, self.clock
        enter(mock.patch.object(_world, "now", self))
        enter(mock.patch.object(deadline, "time", SimpleNamespace(monotonic=clock.monotonic)))
        if not notes:  # of a Core's writers; managed Firebolt has none
            plain = classmethod(lambda cls, settings, left: cls(settings.firebolt, left))
            enter(mock.patch.object(engine_module.Engine, "of", plain))
        for module in (ledger, loader, reload_module):
            enter(mock.patch.object(module, "time", SimpleNamespace(sleep=clock.sleep)))
        enter(mock.patch.object(core, "time", SimpleNamespace(time=lambda: BIRTH.timestamp() + clock.seconds)))

    def close(self) -> None:
        """Kill what is paused, stop the engine."""
        for job in self.paused:
            job.kill()
        self._stack.close()

    # ------------------------------------------------------------ the source

    def put(
        self, target: str, rows: Sequence[Change], *, full: bool = False, key: str = "", announced: bool = True
    ) -> str:
        """DMS writes a file (or overwrites `key`); returns its key."""
        self.clock.sleep(1)
        if not key:
            self._stamp += 1
            name = f"LOAD{self._stamp:08X}" if full else f"20260101-{self._stamp:09}"
            key = f"{PREFIX}t/{target}/{name}.parquet"
        full = "/LOAD" in key
        buffer = io.BytesIO()
        columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
        pq.write_table(pa.table([pa.array(c, t.type) for c, t in zip(columns, ROWS, strict=True)], schema=ROWS), buffer)
        return self._put(key, buffer.getvalue(), target, full, tuple(rows), good=True, announced=announced)

    def put_load(self, target: str, files: Sequence[Sequence[Change]], *, again: bool, later: int = 0) -> list[str]:
        """DMS loads a table anew: the files of one full load; `again` under the old names.

        The last `later` of them it writes afterwards (`write_on`); the keys of the others are returned.
        """
        self.write_all(target)
        old = sorted(v.key for v in self.current.values() if v.target == target and v.full) if again else []
        load = FullLoad(target, rest=[(old.pop(0) if old else "", rows) for rows in files])
        self.loads.append(load)
        return [self.write_on(load) for _ in files[: len(files) - later]]

    def write_on(self, load: FullLoad) -> str:
        """DMS writes the next file of a full load; its key."""
        key, rows = load.rest.pop(0)
        key = self.put(load.target, rows, full=True, key=key)
        load.files.add((self.current[key].name, self.current[key].modified))
        return key

    def write_all(self, target: str = "") -> None:
        """DMS ends the full loads (of a table) that it has begun."""
        for load in self.unwritten(target):
            while load.rest:
                self.write_on(load)

    def unwritten(self, target: str = "") -> list[FullLoad]:
        """The full loads (of a table) of which files are still to come."""
        return [load for load in self.loads if load.rest and target in ("", load.target)]

    def put_poison(self, target: str) -> str:
        """A file that is no Parquet file."""
        self.clock.sleep(1)
        self._stamp += 1
        key = f"{PREFIX}t/{target}/20260101-{self._stamp:09}.parquet"
        return self._put(key, f"junk {self._stamp}".encode(), target, False, (), good=False, announced=True)

    def _put(
        self, key: str, body: bytes, target: str, full: bool, rows: tuple[Change, ...], *, good: bool, announced: bool
    ) -> str:
        etag = self.lab.s3.put_object(Bucket=SOURCE, Key=key, Body=body)["ETag"].strip('"')
        keys = s3_backends[ACCOUNT]["aws"].buckets[SOURCE].keys
        modified = self.clock.now().replace(microsecond=0)  # S3 keeps whole seconds
        keys[key].last_modified = modified.replace(tzinfo=None)
        stamp = key.rsplit("/", 1)[1]
        version = Version(key, etag, target, full, stamp, modified, rows, good)
        self.versions[key, etag] = version
        self.current[key] = version
        detail = {"bucket": {"name": SOURCE}, "object": {"key": key, "etag": etag, "size": len(body)}}
        event = Message(json.dumps({"detail-type": "Object Created", "source": "aws.s3", "detail": detail}))
        self.events.append(event)
        if announced:
            self.messages.append(event)
        self._log(f"put {key} {etag[:6]} {rows if good else 'junk'}{'' if announced else ' (event lost)'}")
        return key

    def delete(self, key: str) -> None:
        """The object is deleted."""
        self.lab.s3.delete_object(Bucket=SOURCE, Key=key)
        self.current.pop(key, None)
        self._log(f"delete {key}")

    # ------------------------------------------------------------ workers

    def deliver(self, messages: Sequence[Message], *, timeout: float = LEASE_SECONDS, **when: Any) -> Job:
        """A loader gets these messages as one batch."""
        records = [
            {
                "messageId": str(number),
                "eventSource": "aws:sqs",
                "body": m.body,
                "attributes": {},
                "messageAttributes": {n: {"stringValue": v} for n, v in m.attributes.items()},
            }
            for number, m in enumerate(messages)
        ]
        batch = list(messages)

        def action() -> list[Message]:
            answer = self.load({"Records": records}, Invocation(timeout))
            return [batch[int(item["itemIdentifier"])] for item in answer["batchItemFailures"]]

        job = Job(f"load {[json.loads(m.body)['detail']['object']['key'][-14:-8] for m in batch]}", action, **when)
        job.batch = batch
        return self._go(job)

    def load(self, event: Mapping[str, Any], context: Invocation) -> Any:
        """The handler under test."""
        return loader.handler(event, context)

    def clean(self, task: str, *, timeout: float = LEASE_SECONDS, **when: Any) -> Job:
        """The cleanup function runs a task."""
        return self._go(Job(task, lambda: cleanup.handler({"task": task}, Invocation(timeout)), **when))

    def reload(
        self,
        target: str,
        *,
        everything: bool = False,
        allow_gone: bool = False,
        same_task: bool = True,
        timeout: float = LEASE_SECONDS,
        **when: Any,
    ) -> Job:
        """The operator has a table reloaded, and says what he knows of the full load."""
        if same_task or everything:
            self._asked.add(target)

        def action() -> reload_module.Result:
            config, limit = loader._config(), deadline.Deadline(timeout)
            engine = engine_module.Engine.of(config, limit)
            try:
                work = Reload.of(config, engine, limit, Invocation(timeout))
                plan = work.plan(target, everything=everything)
                return work.run(
                    plan,
                    allow_gone=allow_gone,
                    same_task=same_task,
                    drop_older_full_load=self._is_whole(plan),
                    progress=lambda *_: None,
                )
            finally:
                engine.close()

        return self._go(Job(f"reload {target}", action, **when))

    def _is_whole(self, plan: Plan) -> bool:
        """Whether the full load that a plan begins with is written to its end, and the older files are of another."""

        def files(items: Sequence[Item]) -> set[tuple[Name, datetime]]:
            return {((i.file.version.key, i.file.version.etag), i.info.last_modified) for i in items}

        new, older = files(plan.full), files(plan.older_full)
        return bool(older) and not any(load.files & new and (load.rest or load.files & older) for load in self.loads)

    def resume(self, job: Job, pause_in: int = 0, die_in: int = 0) -> Job:
        """A paused worker goes on."""
        self.paused.remove(job)
        job.pause_at = job.points + pause_in if pause_in else 0
        job.die_at = job.points + die_in if die_in else 0
        return self._go(job, "resume ")

    def kill(self, job: Job) -> None:
        """A paused worker dies."""
        self.paused.remove(job)
        job.kill()
        self._ended(job, "kill ")

    def arm(self, place: int | str | tuple[str, ...], *kinds: Fault) -> None:
        """The nth statement from now, or the next that begins so, meets the first of these faults that fits it.

        Where none fits, the next statement that one fits does.
        """
        self.arms.append((len(self.proxy.calls) + place if isinstance(place, int) else place, kinds))

    def arm_aws(self, number: int, when: str) -> None:
        """The nth AWS call of workers from now fails, `before` or `after` AWS acted."""
        self.aws_arms.append((self.count["aws calls"] + number, when))

    def _go(self, job: Job, what: str = "") -> Job:
        job.go()
        self._ended(job, what)
        return job

    def _ended(self, job: Job, what: str) -> None:
        self._log(f"{what}{job.name}: {job.state} at {job.points}{f' {job.error!r}' if job.error else ''}")
        self.count[f"job {job.state}"] += 1
        if job.state == "done" and job.name.startswith("reload "):
            self.count["reloads refused" if job.error else "reloads"] += 1
        self.messages += self.lab.take("wire-queue")
        self.dead += self.lab.take("wire-dlq")
        if job.state == "paused":
            self.paused.append(job)
            return
        if job.error is not None and not isinstance(job.error, (CdcError, KilledError)):
            raise Violation(f"{job.name} raised {job.trace}")
        unacknowledged = job.answer if isinstance(job.answer, list) else job.batch if job.error else []
        for message in unacknowledged:
            message.receives += 1
            if message.receives < 5:
                self.messages.append(message)
            else:
                self.count["redriven"] += 1
                self.dead.append(message)
        self.check()

    def _decide(self, call: Call) -> Fault | None:
        for number, (at, kinds) in enumerate(self.arms):
            reached = call.number >= at if isinstance(at, int) else call.text.startswith(at)
            fitting = (kind for kind in kinds if reached and fits(kind, call) and not self._orphans(kind, call))
            if fault := next(fitting, None):
                del self.arms[number]
                self.met[call.number] = fault
                self._log(f"  fault {fault.name} at {call.text[:60]}")
                return fault
        return None

    def _orphans(self, fault: Fault, call: Call) -> bool:
        """Whether the fault leaves a Core with an open transaction whose id nobody was told: nobody can end it."""
        if not self.engine.options.single_writer:
            return False
        if call.text == "BEGIN":
            return fault in (Fault.FORGET_SESSION, Fault.CUT_AFTER, Fault.LATE)
        earlier = any(c.transaction_id == call.transaction_id for c in self.proxy.calls[: call.number - 1])
        return fault is Fault.FORGET_SESSION and not earlier

    # ------------------------------------------------------------ people and time

    def operator(self, sql: str) -> None:
        """A person types SQL; on a Core it may be refused."""
        reply = self._ask(sql)
        self._typed = self._typed or reply.status == 200
        self._log(f"typed {sql}: {reply.status}")

    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.clock.seconds += seconds
        self._log(f"wait {seconds}")

    def restart(self) -> None:
        """The engine restarts between two statements."""
        self.proxy.restart()
        self._log("engine restarted")

    # ------------------------------------------------------------ the oracle

    def sql(self, text: str) -> list[list[Any]]:
        """A statement of the observer's, past the proxy."""
        reply = self._ask(text)
        if reply.status != 200:
            raise Violation(f"the observer's {text!r} failed: {reply.body.decode()}")
        return list(json.loads(reply.body)["data"]) if reply.body else []

    def _ask(self, text: str) -> Reply:
        return self.engine.answer("POST", "/?database=firebolt&output_format=JSON_Compact", {}, text.encode())

    def lines(self) -> Counter[Line]:
        """What stands in `cdc_applied`."""
        columns = ("target_table", "generation", "file_key", "etag", "file_modified_at")
        return Counter(
            Line(target, int(generation), (PREFIX + key, etag), _moment(modified))
            for target, generation, key, etag, modified in self.stored("cdc_applied", *columns)
        )

    def generations(self) -> dict[str, tuple[int, datetime | None]]:
        """Each target's generation in force, and when it began (None for the first)."""
        return {
            turn: (int(generation), _moment(started) if generation > 1 else None)
            for turn, generation, started in self.stored("cdc_tables", "turn", "generation", "generation_started_at")
        }

    def in_force(self) -> list[Line]:
        """The lines of `cdc_applied` of the generations in force."""
        generations = self.generations()
        return [line for line in self.lines().elements() if line.generation == generations[line.target][0]]

    def applied(self) -> Counter[Name]:
        """How often each version stands in `cdc_applied` for its target's generation in force."""
        return Counter(line.name for line in self.in_force())

    def expected(self, target: str, lines: Sequence[Line]) -> Counter[tuple[Any, ...]]:
        """The target's rows if these versions were applied, once each, in commit order."""
        changes = sorted(
            (
                (self.versions[line.name].order(line.modified, position), self.versions[line.name], row)
                for line in lines
                if line.target == target
                for position, row in enumerate(self.versions[line.name].rows)
            ),
            key=lambda change: change[0],
        )
        if target == LOG:
            return Counter((v.key.removeprefix(PREFIX), *row) for _, v, row in changes)
        state: dict[int, tuple[Any, ...]] = {}
        for _, _, (op, key, value) in changes:
            if op == "D" and target == HARD:
                state.pop(key, None)
            else:
                state[key] = (key, value, op == "D") if target == SOFT else (key, value)
        return Counter(state.values())

    def found(self, target: str) -> Counter[tuple[Any, ...]]:
        """The target's rows."""
        columns = {HARD: ("id", "v"), SOFT: ("id", "v", "_cdc_deleted"), LOG: ("_cdc_file", "_cdc_op", "id", "v")}
        return Counter(self.stored(target, *columns[target]))

    def stored(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """What is committed, read past the stand-in's SQL, moments as microseconds; nothing without the table."""
        found = self.engine.engine.relations.get(table)
        if not isinstance(found, Table):
            return []
        names = {c.name: f"epoch_us({c.stored})" if c.type.name == "timestamptz" else c.stored for c in found.columns}
        wanted = ", ".join(names[c] for c in columns)
        return run(self._reader, f"SELECT {wanted} FROM main.t{found.id} WHERE e = {LIVE}")

    def check(self) -> None:
        """The invariants that hold at every moment."""
        if self.proxy.broken:
            raise RuntimeError(self.proxy.broken[0])
        if self.engine.engine.last_commit == self._seen:
            return
        self._seen = self.engine.engine.last_commit
        generations, lines = self.generations(), self.lines()
        count = Counter((line.target, line.generation, line.name) for line in lines.elements())
        if twice := {name for name, n in count.items() if n > 1}:
            raise Violation(f"twice in cdc_applied: {twice}")
        now = [line for line in lines if line.generation == generations[line.target][0]]
        for target in (HARD, SOFT, LOG):
            want, have = self.expected(target, now), self.found(target)
            if want != have:
                raise Violation(f"{target}: missing {want - have}, too much {have - want}")
        for load in self.loads:
            self._whole(load, {(line.name, line.modified) for line in now}, generations[load.target][1])
        for target in (HARD, SOFT, LOG):
            self._asked_for(target, generations[target][0], list(lines))
        applied = {line.name for line in lines if line.generation <= generations[line.target][0]}
        rows = self.stored(LEDGER, "file_key", "etag", "status", "recorded_status")
        names = Counter((PREFIX + r[0], r[1]) for r in rows)
        if doubled := {name for name, n in names.items() if n > 1}:
            raise Violation(f"two ledger rows of {doubled}")
        for key, etag, status, recorded in rows:
            if "completed" in (status, recorded) and (PREFIX + key, etag) not in applied:
                raise Violation(f"{key} is completed and not applied")

    def _whole(self, load: FullLoad, applied: set[tuple[Name, datetime]], started: datetime | None) -> None:
        """A generation that begins with a full load leaves no file of it behind."""
        if started is None or not load.files & applied:
            return
        there = {(version.name, version.modified) for version in self.current.values()}
        if cut := [name for name, modified in load.files & there if modified < started]:
            raise Violation(f"{load.target}: the generation that began with {started} cut off {cut} of its full load")

    def _asked_for(self, target: str, generation: int, lines: Sequence[Line]) -> None:
        """What may be a table's first full load supersedes changes only if the operator says that it holds them."""
        before, self._generations[target] = self._generations[target], generation
        if generation == before:
            return
        mine = [line for line in lines if line.target == target and self.versions[line.name].full]
        new = {(line.name, line.modified) for line in mine if line.generation == generation}
        others = [line for line in mine if line.generation == before and (line.name, line.modified) not in new]
        if not others and target not in self._asked:
            raise Violation(f"{target}: its first full load superseded the changes before it, and nobody had said so")
        self._asked.discard(target)

    def finish(self, *, same_task: bool | None = None) -> None:
        """No more faults; everything must end up right.

        `same_task` is what the operator says of full loads that are held; by default some say this, some that.
        """
        self.arms.clear()
        self.aws_arms.clear()
        self.proxy.quiet()
        self.proxy.decide = self._decide
        self._log("-- faults stopped")
        self.write_all()
        self.check()
        zombies = [job for job in list(self.paused) if random.random() < 0.5]
        for job in [job for job in self.paused if job not in zombies]:
            self.kill(job)
        self.settle()
        for job in zombies:
            self.count["zombies"] += 1
            self.resume(job)
        self.settle()
        self._final(len(self.versions) % 2 == 0 if same_task is None else same_task)

    def settle(self, rounds: int = 12) -> None:
        """Leases run out, the sweep and the reconciliation run, everything is delivered, until nothing moves."""
        for number in range(rounds):
            self.wait(RELOAD_SECONDS + 45)
            if number and self.messages:
                self._end_unknown()
            swept = self._cleaned("sweep")
            missing = self._cleaned("reconcile")["missing"] if number == 0 or not self.messages else 0
            moved = swept["turns_freed"] + swept["mended"] + swept["reset"] + swept["requeued"] + missing
            if not moved and not self.messages:
                return
            due, self.messages = self.messages, []
            for start in range(0, len(due), 10):
                self.deliver(due[start : start + 10])
        raise Violation(f"still moving after {rounds} rounds: {swept} {missing} {self.messages}")

    def _end_unknown(self) -> None:
        """Restart a Core that has an open transaction of which no worker left a note: the product cannot end it.

        Its worker died, or lost the reply to its first statement and to ROLLBACK; such a transaction keeps all others
        from writing.
        """
        listing = self.lab.s3.list_objects_v2(Bucket=MODULE, Prefix="staging/writers/")
        noted = {thing["Key"].rsplit("/", 1)[1].removesuffix(".json") for thing in listing.get("Contents", [])}
        if self.engine.options.single_writer and self.engine.engine._open.keys() - noted:
            self.count["Core restarted to end an unknown transaction"] += 1
            self.restart()

    def _cleaned(self, task: str) -> dict[str, int]:
        job = self.clean(task)
        if isinstance(job.error, ConflictError) and self.engine.options.single_writer:
            # A worker that died between BEGIN and its first write has left no note of its transaction.
            self.count["Core restarted to end an unknown transaction"] += 1
            self.restart()
            job = self.clean(task)
        if job.error is not None:
            raise Violation(f"{task} fails without faults: {job.trace}")
        return dict(job.answer[task])

    def _final(self, same_task: bool) -> None:
        self.check()
        self._ledger_is_right()
        if held := [r for r in self.stored("cdc_tables", "turn", "holder") if r[1] is not None]:
            raise Violation(f"turns held: {held}")
        if self._cleaned("audit")["duplicate_rows"]:
            raise Violation("doubled keys")
        if self.count["attempts used up"]:
            self._retry_exhausted()
        self._reload_held(same_task)

    def _ledger_is_right(self) -> None:
        applied, superseded = self.applied(), self._superseded()
        ledger_rows = {
            (PREFIX + r[0], r[1]): (r[2], r[3], r[4])
            for r in self.stored(LEDGER, "file_key", "etag", "status", "error_class", "error_message")
        }
        for version in self.current.values():
            status, failure, message = ledger_rows.get(version.name, ("no row", None, None))
            if version.name in applied:
                if status != "completed" and not (status == "no row" and self._typed):
                    raise Violation(f"{version.key} is applied and {status} {failure}")
            elif version in superseded:
                self.count["superseded"] += 1
            elif not version.good:
                if (status, failure) != ("failed", "permanent"):
                    raise Violation(f"poison {version.key} is {status} {failure}")
            else:
                if (status, failure) not in (("failed", "transient"), ("pending", "held")) or not message:
                    raise Violation(f"lost: {version.key} is {status} {failure} {message}")
                self.count["held" if failure == "held" else "attempts used up"] += 1
        for (key, etag), (status, failure, message) in ledger_rows.items():
            unfinished = status == "processing" or (status == "pending" and failure != "held")
            told = message and (failure or status == "skipped")
            if unfinished or (status != "completed" and not told):
                raise Violation(f"{key} {etag[:6]} ends as {status} {failure} {message}")

    def _reload_held(self, same_task: bool) -> None:
        """The way out that the runbook names for full loads that are held: afterwards none of them waits."""
        for target in (HARD, SOFT, LOG):
            if not self.held(target):
                continue
            job = self.reload(target, allow_gone=True, same_task=same_task, timeout=RELOAD_SECONDS)
            if isinstance(job.error, (NothingToReloadError, UndecidedError)) and "firebolt-cdc retry" in str(job.error):
                # The change that they were newer than is gone; or they are a first full load, or the rest of one.
                undecided = isinstance(job.error, UndecidedError)
                self.count["merged as the rest, or the first" if undecided else "held for nothing"] += 1
                self.operator(f"{RETRY_HELD} AND turn = '{target}'")
            elif job.error is not None:
                raise Violation(f"the reload of {target} fails without faults: {job.trace}")
            else:
                self.count["reloads at the end"] += 1
            self.settle()
            if held := self.held(target):
                raise Violation(f"{target} was reloaded and {held} still waits")
        self._ledger_is_right()
        self._cleaned("purge")
        shadows = {r[0] for r in self.stored("cdc_reloads", "shadow", "status") if r[1] == "building"}
        tables = {name for name in self.engine.engine.relations if "__cdc_reload_" in name}
        forgotten = any("typed DELETE FROM cdc_reloads" in step for step in self.steps)
        if tables - shadows and not forgotten:
            raise Violation(f"shadows stay: {tables - shadows}")

    def held(self, target: str) -> list[str]:
        """Full-load files of a table that are held, as they lie in S3."""
        there = {version.name for version in self.current.values() if version.full and version.target == target}
        rows = self.stored(LEDGER, "file_key", "etag", "error_class")
        return [r[0] for r in rows if r[2] == "held" and (PREFIX + r[0], r[1]) in there]

    def _retry_exhausted(self) -> None:
        """The way out that the runbook names for files whose attempts are used up."""
        self.operator("UPDATE cdc_processed_files SET status = 'pending' WHERE error_class = 'transient'")
        self.settle()
        self.check()
        applied, superseded = self.applied(), self._superseded()
        held = {(PREFIX + r[0], r[1]) for r in self.stored(LEDGER, "file_key", "etag", "error_class") if r[2] == "held"}
        for v in self.current.values():
            if v.good and v not in superseded and v.name not in applied.keys() | held:
                raise Violation(f"lost even after the operator's retry: {v.key}")

    def _superseded(self) -> list[Version]:
        """Objects in S3 that are older than the full load with which their table's generation began."""
        started = {target: since for target, (_, since) in self.generations().items()}
        return [v for v in self.current.values() if (since := started[v.target]) is not None and v.modified < since]

    def _log(self, text: str) -> None:
        self.steps.append(f"{self.clock.seconds:8.1f} {text}")


class _Now:
    """The world that runs, for the hooks in the product's way."""

    now: World | None = None


_world = _Now()


def point(sql: str = "") -> None:
    """A place at which the worker that runs may pause or die."""
    if _running.job is not None:
        _running.job.point(sql)


def _gated(real: Callable[..., Any]) -> Callable[..., Any]:
    """The product's way to run a statement, with places to pause and die before and after."""

    def run(connection: Any, sql: str, *rest: Any) -> Any:
        if _running.job is None or _world.now is None:
            return real(connection, sql, *rest)
        point(sql)
        rewritten = _world.now.rewrite(sql)
        rows = [] if rewritten is None else real(connection, rewritten, *rest)
        point()
        return rows

    return run


def _aws_before(**_: Any) -> None:
    _aws("before", True)


def _aws_after(**_: Any) -> None:
    _aws("after", False)


def _aws(when: str, first: bool) -> None:
    world = _world.now
    if _running.job is None or world is None:
        return
    if first:
        point()
        world.count["aws calls"] += 1
    for number, (at, armed) in enumerate(world.aws_arms):
        if world.count["aws calls"] >= at and armed == when:
            del world.aws_arms[number]
            world.count[f"AWS call lost {when} it acted"] += 1
            raise ConnectionClosedError(endpoint_url="https://aws.invalid")


def fits(fault: Fault, call: Call) -> bool:
    """Whether a fault makes sense at a statement."""
    if fault is Fault.SWALLOW_BEGIN:
        return bool(call.text == "BEGIN")
    if fault is Fault.CONFLICT:
        return bool(call.text == "COMMIT") or (call.transaction_id is None and not call.text.startswith("SELECT"))
    if fault in (Fault.RESET_SESSION, Fault.FORGET_SESSION, Fault.ABORT, Fault.LOSE):
        return call.transaction_id is not None or (fault is Fault.RESET_SESSION and call.text == "BEGIN")
    return True
