"""A campaign on the running stack: deliver, kill, restart, sweep, wait until quiet, compare with the oracle."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
from botocore.exceptions import BotoCoreError, ClientError
from firebolt.utils.exception import FireboltError

from chaos.source import BIG, FULL_LOADS, BigFile, File, Table, plan, small_file, table_map, tables
from stack import local
from stack.pipeline import Pipeline
from stack.service import StackError

SMALL_FILES_SECONDS = 0.5
"""Pause between the small files that compete with the big one for its table."""
LOADER_SECONDS = 60
"""How long a loader may work while loaders are killed: so long it takes until a dead one's turn is free."""
BUSY_WITHIN_SECONDS = 5
"""How long a kill waits for a loader that works."""
ALIVE_WITHIN_SECONDS = 120
"""How long a kill waits for a loader when all are dead: until their messages are visible again, and some more."""
COUNTED = 0.9
"""Share of the late repetitions that must be counted: what comes while the engine restarts is sent on, and then taken
for the loader's own copy."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What a campaign does. `seconds` is how long the deliveries and the faults last; healing comes after that."""

    files: int = 1000
    tables: int = 20
    kills: int = 50
    restarts: int = 2
    duplicates: float = 0.15
    seed: int = 1
    big_rows: int = 9_000_000
    seconds: float = 600
    big_seconds: int = 900
    """How long a loader may work on the big file; patience begins after that."""
    patience_seconds: float = 600
    """How long nothing may get better before it is given up."""


@dataclass
class Score:
    """What a campaign found. Times are in seconds."""

    setting: Setting
    files: int = 0
    deliveries: int = 0
    rows: int = 0
    kills: int = 0
    kills_at_work: int = 0
    """How many invocations they ended."""
    restarts: int = 0
    sweeps: int = 0
    repeated: int = 0
    """Deliveries of a file that had been delivered."""
    repeated_late: int = 0
    """Files that came again when they had been applied."""
    refused: int = 0
    """Deliveries that the loader recognized as repeated and counted: of the early ones those that it got together with
    the first; redeliveries of the queue too."""
    retried_by_hand: int = 0
    """Files that were killed in each of their attempts, and asked for again as the runbook says."""
    big_waited_seconds: float = 0
    big_loaded_seconds: float = 0
    small_meanwhile: int = 0
    """Small files of the same table that were delivered until the big one was loaded."""
    duplicates: int = 0
    losses: int = 0
    wrong: int = 0
    """Rows that no change left, or that a later change should have replaced."""
    unfinished: int = 0
    turns_held: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def good(self) -> bool:
        return not (self.duplicates or self.losses or self.wrong or self.unfinished or self.turns_held or self.findings)

    def as_json(self) -> str:
        return json.dumps(asdict(self) | {"good": self.good})


def variables(tables_: int, loader_seconds: int = LOADER_SECONDS, memory_mb: int = 2048) -> dict[str, str]:
    """What examples/local must be told for a campaign on so many tables."""
    return {
        "extra_tables": json.dumps(table_map(tables(tables_))),
        "loader_timeout_seconds": str(loader_seconds),
        "loader_memory_mb": str(memory_mb),
    }


def has_tables(pipeline: Pipeline, number: int) -> bool:
    """Whether the running stack loads the campaign's tables."""
    stored = pipeline.s3.get_object(Bucket=pipeline.env["CONFIG_BUCKET"], Key=pipeline.env["CONFIG_KEY"])
    return bool(table_map(tables(number)).keys() <= json.load(stored["Body"])["tables"].keys())


class Campaign:
    """One run on a stack that is up and has the tables: `starve` and `deliver` in any order, then `finish`."""

    def __init__(self, setting: Setting, pipeline: Pipeline, report: Report = print) -> None:
        self._number = time.time_ns() // 1_000_000
        self._began = time.monotonic()
        self._setting, self._pipeline, self._say = setting, pipeline, report
        loads = 0 if self._has_run() else FULL_LOADS
        self._plan = plan(setting.seed, setting.files, setting.tables, setting.duplicates, self._number, loads)
        self._etags: dict[str, str] = {}
        self._turns = [table.target for table in self._plan.tables]
        self._big: BigFile | None = None
        self._refused_before = self._refused()
        self._late: set[str] = set()
        self.score = Score(setting)

    def finish(self) -> Score:
        """Wait until quiet, compare, and return the score."""
        self.settle()
        self.score.refused = self._refused() - self._refused_before
        self._require_all_done()
        self.compare()
        self.score.files = len(self._plan.files)
        self.score.rows = sum(len(file.rows) for file in self._plan.files)
        self.score.seconds = round(time.monotonic() - self._began, 1)
        return self.score

    def _require_all_done(self) -> None:
        """The campaign's own part: a fault that did not happen shows nothing."""
        done, wanted = self.score, self._setting
        if (done.kills, done.restarts) != (wanted.kills, wanted.restarts):
            done.findings.append(f"only {done.kills} kills and {done.restarts} restarts")
        counted = {row[0] for row in self._pipeline.query("SELECT DISTINCT file_key FROM cdc_duplicate_deliveries")}
        done.repeated_late = len(self._late)
        missing = self._late - counted
        if len(missing) > (1 - COUNTED) * len(self._late) + done.kills_at_work:  # what a killed loader got comes again
            done.findings.append(f"came again when applied, and not counted: {sorted(missing)}")

    def _has_run(self) -> bool:
        """Whether an earlier campaign left changes on this stack, so that a full load would be a reload."""
        env = self._pipeline.env
        found = self._pipeline.s3.list_objects_v2(
            Bucket=env["SOURCE_BUCKET"], Prefix=env["SOURCE_PREFIX"] + "chaos/", MaxKeys=1
        )
        return bool(found["KeyCount"])

    def _put_full_loads(self) -> None:
        """Before any change; then a second passes, which is what S3's times tell apart."""
        for file in self._plan.files:
            if file.is_full_load and file.key not in self._etags:
                self._etags[file.key] = self._put(file)
        time.sleep(1.1)

    def _refused(self) -> int:
        return int(self._pipeline.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries"))

    # Deliveries and faults

    def deliver(self) -> None:
        """Deliver every file while loaders are killed and the engine is restarted."""
        self._put_full_loads()
        pause = self._setting.seconds / len(self._plan.deliveries)
        logged = local.EMULATOR.log.stat().st_size
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            faults = pool.submit(self._faults, over)
            try:
                for count, (file, repeated) in enumerate(self._plan.deliveries):
                    began = time.monotonic()
                    if repeated:
                        self.score.repeated += 1
                        if self._is_applied(file):
                            self._late.add(file.key)
                        self._announce(file, self._etags[file.key])
                    elif file.key not in self._etags:
                        self._etags[file.key] = self._put(file)
                    if faults.done():
                        faults.result()
                    if count % 100 == 99:
                        self._say(f"{count + 1} deliveries, {self.score.kills} kills, {self.score.restarts} restarts")
                    time.sleep(max(0.0, pause - (time.monotonic() - began)))
                faults.result()
            finally:
                over.set()
        with local.EMULATOR.log.open("rb") as log:
            log.seek(logged)
            self.score.kills_at_work = log.read().count(b"errorMessage=Worker process died")

    def _is_applied(self, file: File) -> bool:
        """Whether a file stands in `cdc_applied`; `no` while the engine does not answer."""
        try:
            with Pipeline() as pipeline:  # a new one, since a restart of the engine breaks connections
                return bool(pipeline.query("SELECT 1 FROM cdc_applied WHERE file_key = ?", [file.key]))
        except (FireboltError, httpx.HTTPError):
            return False

    def _put(self, file: File) -> str:
        env = self._pipeline.env
        answer = self._pipeline.s3.put_object(
            Bucket=env["SOURCE_BUCKET"], Key=env["SOURCE_PREFIX"] + file.key, Body=file.body()
        )
        self.score.deliveries += 1
        return str(answer["ETag"]).strip('"')

    def _announce(self, file: File, etag: str) -> None:
        """The event of the file once more, as S3 sends it."""
        env = self._pipeline.env
        detail = {
            "bucket": {"name": env["SOURCE_BUCKET"]},
            "object": {"key": env["SOURCE_PREFIX"] + file.key, "etag": etag},
        }
        body = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
        self._pipeline.sqs.send_message(QueueUrl=env["QUEUE_URL"], MessageBody=json.dumps(body))
        self.score.deliveries += 1

    def _faults(self, over: threading.Event) -> None:
        """Kills and restarts at random moments; a sweep by hand after some of them."""
        chance = random.Random(self._setting.seed)
        kinds = ["kill"] * self._setting.kills + ["restart"] * self._setting.restarts
        chance.shuffle(kinds)
        known: set[str] = set()
        began = time.monotonic()
        moments = sorted(chance.uniform(0.05, 1) * self._setting.seconds for _ in kinds)
        for moment, kind in zip(moments, kinds, strict=True):
            if over.wait(max(0.0, began + moment - time.monotonic())):
                return
            if kind == "restart":
                local.STANDIN.kill()
                local.start_standin()
                self.score.restarts += 1
            else:
                with Pipeline() as pipeline:  # a new one, since a restart of the engine breaks connections
                    self._kill(pipeline, chance, known)
                if self.score.kills % 10 == 0:
                    self._say(f"{self.score.kills} kills, {self.score.restarts} restarts")
            if chance.random() < 0.2:
                self._cleanup("sweep")

    def _kill(self, pipeline: Pipeline, chance: random.Random, known: set[str]) -> None:
        """SIGKILL for one of the loaders, soon after one began to load something, if one does within seconds."""
        deadline = time.monotonic() + BUSY_WITHIN_SECONDS
        while time.monotonic() < deadline:
            holders = {row[0] for row in pipeline.query("SELECT holder FROM cdc_tables WHERE holder IS NOT NULL")}
            if holders - known:
                break
            time.sleep(0.05)
        known |= holders
        time.sleep(chance.uniform(0, 0.5))
        deadline = time.monotonic() + ALIVE_WITHIN_SECONDS
        while time.monotonic() < deadline:
            if pids := pipeline.loader_pids():
                with suppress(ProcessLookupError):  # it ended by itself just now: take another one
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    self.score.kills += 1
                    return
            else:  # all of them are dead, and their messages invisible
                self._cleanup("reconcile")
                time.sleep(1)

    def _cleanup(self, task: str) -> None:
        try:
            self._pipeline.cleanup(task)
            self.score.sweeps += task == "sweep"
        except (StackError, BotoCoreError, ClientError) as error:  # the next tick repeats it, as in production
            self._say(f"{task}: {error}")

    def starve(self) -> None:
        """Deliver the big file, and small ones of the same table until it is loaded."""
        big = BigFile.of(self._plan.tables[0], self._setting.big_rows, self._number)
        self._big = big
        self._put_full_loads()
        self._plan.files.append(big)
        self._put(big)
        began, started = time.monotonic(), 0.0
        while (status := self._pipeline.ledger([big.key]).get(big.key, ("",))[0]) != "completed":
            if status == "processing":
                started = started or time.monotonic()
            if time.monotonic() - began > self._setting.big_seconds + self._setting.patience_seconds:
                self.score.findings.append(f"{big.key} is still not loaded but {status}: it is starved")
                return
            self.score.small_meanwhile += 1
            small = small_file(big, self.score.small_meanwhile)
            self._plan.files.append(small)
            self._plan.appended.setdefault(small.table, {}).update({(i, value): op for op, i, value in small.rows})
            self._put(small)
            time.sleep(SMALL_FILES_SECONDS)
        ended = time.monotonic()
        self.score.big_waited_seconds = round((started or ended) - began, 1)
        self.score.big_loaded_seconds = round(ended - (started or ended), 1)
        self._say(
            f"{big.number:,} rows: waited {self.score.big_waited_seconds} s, loaded in "
            f"{self.score.big_loaded_seconds} s, {self.score.small_meanwhile} small files meanwhile"
        )

    # Back to quiet

    def settle(self) -> None:
        """Sweep and reconcile until every file is completed and no turn is held."""
        deadline, fewest = 0.0, len(self._plan.files) + 1
        for tick in range(10**6):
            statuses = self._status(self._plan.files)
            open_files = len(self._plan.files) - statuses["completed"]
            if open_files < fewest:
                deadline, fewest = time.monotonic() + self._setting.patience_seconds, open_files
            if (not open_files and not self._held()) or time.monotonic() > deadline:
                break
            if tick % 4 == 0:
                self._say(f"healing: {open_files} files to go {dict(statuses)}")
                self._cleanup("reconcile")
            self._retry()
            self._cleanup("sweep")
            time.sleep(3)
        self.score.turns_held = self._held()
        for file, (status, tries, error) in self._pipeline.ledger(f.key for f in self._plan.files).items():
            if status != "completed":
                self.score.findings.append(f"{file}: {status} after {tries} tries: {error}")
        self.score.unfinished = len(self._plan.files) - self._status(self._plan.files)["completed"]

    def _status(self, files: Iterable[File]) -> Counter[str]:
        return Counter(status for status, _, _ in self._pipeline.ledger(file.key for file in files).values())

    def _held(self) -> int:
        rows = self._pipeline.query("SELECT turn FROM cdc_tables WHERE holder IS NOT NULL")
        return sum(row[0] in self._turns for row in rows)

    def _retry(self) -> None:
        """What an operator does with files whose last attempt was killed too; other failures stay, and are found."""
        mine = "status = 'failed' AND error_class = 'transient' AND alone_count >= 3 "
        mine += f"AND file_key LIKE 'chaos/%/{self._number}/%'"
        given_up = [row[0] for row in self._pipeline.query(f"SELECT file_key FROM cdc_processed_files WHERE {mine}")]
        if given_up:
            self._say(f"retried by hand: {given_up}")
            self._pipeline.query(f"UPDATE cdc_processed_files SET status = 'pending' WHERE {mine}")
            self.score.retried_by_hand += len(given_up)

    # What it came to

    def compare(self) -> None:
        """Row for row with the oracle; and no version stands applied twice."""
        for table in self._plan.tables:
            if table.merge:
                expected: Counter[Any] = Counter(self._plan.merged[table].items())
                found: Counter[Any] = Counter((int(r[0]), r[1]) for r in self._rows(table, "id, value"))
            else:
                expected = Counter((k, v, op) for (k, v), op in self._plan.appended[table].items())
                found = Counter((int(r[0]), r[1], r[2]) for r in self._rows(table, "id, value, _cdc_op"))
            self._judge(table, expected, found)
        if self._big:
            distinct, total = self._pipeline.query(
                f'SELECT COUNT(DISTINCT id), COUNT(*) FROM "{self._big.table.target}" WHERE run = ? AND id >= ?',
                [self._number, BIG],
            )[0]
            self.score.losses += self._big.number - distinct
            self.score.duplicates += total - distinct
        audit = self._pipeline.cleanup("audit")["audit"]
        if audit["duplicate_rows"] or audit["duplicate_files"]:
            self.score.findings.append(f"audit: {audit}")

    def _judge(self, table: Table, expected: Counter[Any], found: Counter[Any]) -> None:
        keys = Counter(row[0] for row in found.elements()) if table.merge else found
        duplicates = sum(number - 1 for number in keys.values() if number > 1)
        losses, wrong = (expected - found).total(), sum(row not in expected for row in found)
        self.score.duplicates += duplicates
        self.score.losses += losses
        self.score.wrong += wrong
        if duplicates or losses or wrong:
            missing, extra = sorted(expected - found)[:5], sorted(found - expected)[:5]
            self.score.findings.append(f"{table.target}: missing {missing}, too many {extra}")

    def _rows(self, table: Table, columns: str) -> list[list[Any]]:
        """The table's rows of this campaign; Firebolt's JSON itself, because the SDK is slow with many rows."""
        env = self._pipeline.env
        request = urllib.request.Request(
            f"{env['FIREBOLT_CORE_URL']}/?database={env['FIREBOLT_DATABASE']}&output_format=JSON_Compact",
            data=f'SELECT {columns} FROM "{table.target}" WHERE run = {self._number} AND id < {BIG}'.encode(),
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            rows: list[list[Any]] = json.load(response)["data"]
        return rows
