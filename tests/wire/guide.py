"""The deployment guide's own protocol as a control: the same deliveries, faults, pauses, deaths and people break it.

What is meant to be broken is the protocol: the check that fails open, the claim that nothing enforces, data that is
committed before `completed`, "busy elsewhere" that spends the event, and no order. In all else this handler is better
than the guide's: it is given tables, repeated changes to a key within one file are collapsed in the file's order,
deletes delete, a file that is tried again in vain is kept for a person, and the person follows the guide to the letter.
Statements take no time here, so MERGEs never overlap: the guide's duplicates by that cannot show either.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from firebolt.client.auth import FireboltCore
from firebolt.db import connect

from firebolt_cdc.errors import ENGINE_ERRORS
from standin.server import Reply
from support import KilledError
from wire.campaign import campaign, history
from wire.world import (
    HARD,
    LEDGER,
    LOG,
    PREFIX,
    SOFT,
    SOURCE,
    Invocation,
    Job,
    Lab,
    Line,
    Message,
    World,
    point,
)

TABLES = (
    f"CREATE TABLE {LEDGER} (file_key TEXT, request_id TEXT, processed_at TIMESTAMPTZ, status TEXT, lambda_arn TEXT, "
    "attempt_count INT, error_message TEXT)",
    f"CREATE TABLE {HARD} (id BIGINT, v TEXT)",
    f"CREATE TABLE {SOFT} (id BIGINT, v TEXT, _cdc_deleted BOOLEAN)",
    f"CREATE TABLE {LOG} (id BIGINT, v TEXT, _cdc_op TEXT, _cdc_file TEXT)",
)
STUCK = timedelta(minutes=15)
STALE = ("connection", "engine", "session", "cannot be retried", "timeout", "closed")
"""Words of an error after which the guide's handler connects again and repeats the statement."""
TYPED = {
    "status = 'failed', error": f"AND processed_at < CURRENT_TIMESTAMP - INTERVAL '{STUCK.seconds // 60}' MINUTE",
    "status = 'pending', error": "AND processed_at < CURRENT_TIMESTAMP - INTERVAL '1' HOUR",
    "DELETE": "WHERE processed_at < CURRENT_TIMESTAMP - INTERVAL '30' DAY",
}
"""How the guide limits the statements that its operators type; it has no others."""


DUPLICATES, LOSSES = "duplicate rows", "files lost"
EXCUSED = {"files never announced", "files with several ledger rows", "files loaded again"}
"""Not the protocol's fault, or no harm to the data in itself."""


class Guide:
    """One invocation of the guide's handler, for one file."""

    def __init__(self, world: World, seconds: float) -> None:
        self._world, self._seconds = world, seconds
        self._began = world.clock.monotonic()
        self._connect()

    def handle(self, key: str) -> str:
        """Check, mark, load, mark; the answer's message.

        Raises:
            ENGINE_ERRORS: the load failed, and the ledger says so if that could be written.
        """
        file_key = key.removeprefix(PREFIX)
        if self._is_processed(file_key):
            return "File already processed"
        self._swallow(
            f"INSERT INTO {LEDGER} (file_key, request_id, processed_at, status, lambda_arn, attempt_count) "
            f"VALUES ('{file_key}', 'r', CURRENT_TIMESTAMP, 'processing', 'arn', 1)"
        )
        try:
            self._load(key, file_key)
        except ENGINE_ERRORS:
            self._swallow(self._mark(file_key, "failed', error_message = 'failed"))
            raise
        self._swallow(self._mark(file_key, "completed"))
        return "File processed successfully"

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _connect(self) -> None:
        self._connection = connect(auth=FireboltCore(), url=self._world.proxy.url, database="firebolt")

    def _mark(self, file_key: str, status: str) -> str:
        return (
            f"UPDATE {LEDGER} SET status = '{status}', processed_at = CURRENT_TIMESTAMP WHERE file_key = '{file_key}'"
        )

    def _is_processed(self, file_key: str) -> bool:
        """A failure means `no`; `processing` means `yes` for as long as the Lambda's clock says that it is fresh."""
        try:
            rows = self._execute(f"SELECT status, processed_at FROM {LEDGER} WHERE file_key = '{file_key}'")
        except ENGINE_ERRORS:
            return False
        if not rows:
            return False
        status, when = rows[0]
        return status == "completed" or (status == "processing" and self._world.clock.now() - when <= STUCK)

    def _load(self, key: str, file_key: str) -> None:
        target = key.split("/")[-2]
        file = f"READ_PARQUET(URL => 's3://{SOURCE}/{key}')"
        if target == LOG:
            self._retried(
                f'INSERT INTO "{LOG}" (id, v, _cdc_op, _cdc_file) SELECT id, v, "Op", \'{file_key}\' FROM {file}'
            )
            return
        numbered = f'SELECT "Op", id, v, ROW_NUMBER() OVER () AS n FROM {file}'
        ranked = f"SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY n DESC) AS r FROM ({numbered}) AS a"
        names, values = "id, v", "s.id, s.v"
        delete, kept = "WHEN MATCHED AND s.\"Op\" = 'D' THEN DELETE ", " AND s.\"Op\" <> 'D'"
        if target == SOFT:
            names, values, delete, kept = f"{names}, _cdc_deleted", f"{values}, s.\"Op\" = 'D'", "", ""
        self._retried(
            f'DELETE FROM "{target}" WHERE id IN (SELECT id FROM {file})',
            f'MERGE INTO "{target}" AS t USING (SELECT * FROM ({ranked}) AS b WHERE r = 1) AS s ON t.id = s.id '
            f"{delete}WHEN MATCHED THEN UPDATE SET v = s.v "
            f"WHEN NOT MATCHED{kept} THEN INSERT ({names}) VALUES ({values})",
        )

    def _retried(self, *statements: str) -> None:
        """Run statements, each with a commit of its own; after a conflict or a server's error all of them again."""
        for attempt in range(10):
            try:
                for sql in statements:
                    self._execute(sql)
                return
            except ENGINE_ERRORS as error:
                if attempt == 9 or not re.search(r"conflict|code: 9|cannot be retried|\b5\d\d\b", str(error).lower()):
                    raise
                self._world.clock.sleep(3**attempt + random.uniform(0, 2))

    def _swallow(self, sql: str) -> None:
        try:
            self._execute(sql)
        except ENGINE_ERRORS:
            return

    def _execute(self, sql: str) -> list[Sequence[Any]]:
        try:
            return self._run(sql)
        except ENGINE_ERRORS as error:
            if not any(word in str(error).lower() for word in STALE):
                raise
            self.close()
            self._connect()
            return self._run(sql)

    def _run(self, sql: str) -> list[Sequence[Any]]:
        point(sql)
        if self._world.clock.monotonic() - self._began > self._seconds:
            raise KilledError  # Lambda ends it
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            rows = list(cursor.fetchall()) if cursor.description else []
        point()
        return rows


class GuideWorld(World):
    """The campaign's world with the guide's handler in it; what breaks is counted in `harm`."""

    def __init__(self, lab: Lab, **options: Any) -> None:
        self.harm: Counter[str] = Counter()
        self._loads: Counter[tuple[str, str]] = Counter()
        self._delivered: set[tuple[str, str]] = set()
        super().__init__(lab, **options)
        self.sql(f"DROP TABLE {LEDGER} CASCADE")
        for table in TABLES:
            self.sql(table)
        self._engine_answers = self.engine.answer
        self.engine.answer = self._answer  # type: ignore[method-assign]

    def _answer(self, method: str, target: str, headers: Any, body: bytes) -> Reply:
        """Note each load that the engine carried out, whatever its client hears of it."""
        reply = self._engine_answers(method, target, headers, body)
        loaded = re.match(rb"(?:INSERT|MERGE) INTO .*'s3://" + SOURCE.encode() + rb"/([^']+)'", body, re.DOTALL)
        if loaded and reply.status == 200 and b'"errors"' not in reply.body:
            key = loaded[1].decode()
            self._loads[key, self.current[key].etag] += 1
        return reply

    def load(self, event: Mapping[str, Any], context: Invocation) -> Any:
        """EventBridge delivers one event at a time, and again what raised."""
        failed = []
        for record in event["Records"]:
            found = json.loads(record["body"])["detail"]["object"]
            self._delivered.add((found["key"], found["etag"]))
            guide = Guide(self, context.timeout_seconds)
            try:
                guide.handle(found["key"])
            except ENGINE_ERRORS:
                failed.append({"itemIdentifier": record["messageId"]})
            finally:
                guide.close()
        return {"batchItemFailures": failed}

    def clean(self, task: str, **_: Any) -> Job:
        """The guide's deployment has nothing of the kind."""
        return self._go(Job(f"no {task}", dict))

    def reload(self, target: str, **_: Any) -> Job:
        """Nor of this."""
        return self._go(Job(f"no reload of {target}", dict))

    def held(self, target: str) -> list[str]:
        """The guide holds nothing."""
        return []

    def operator(self, sql: str) -> None:
        """A person types the guide's statements, with the guide's conditions."""
        for start, condition in TYPED.items():
            if start in sql:
                super().operator(f"{sql} {condition}")

    def check(self) -> None:
        """Nothing is expected before the end."""
        if self.proxy.broken:
            raise RuntimeError(self.proxy.broken[0])

    def settle(self, rounds: int = 12) -> None:
        """Deliver what is left."""
        while self.messages:
            self.wait(200)
            self.deliver([self.messages.pop(0)])

    def _final(self, same_task: bool) -> None:
        stuck = {key for key, status in self.stored(LEDGER, "file_key", "status") if status == "processing"}
        self.harm["files stuck in processing"] = len(stuck)
        for sql in (
            f"UPDATE {LEDGER} SET status = 'failed', error_message = 'Lambda timeout' WHERE status = 'processing'",
            f"UPDATE {LEDGER} SET status = 'pending', error_message = NULL WHERE status = 'failed'",
        ):
            self.wait(4000)
            self.operator(sql)
        self.messages, self.dead = [Message(m.body) for m in self.dead], []
        self.settle()
        self._count()

    def _count(self) -> None:
        given_up = {json.loads(m.body)["detail"]["object"]["key"] for m in self.dead}
        for v in self.current.values():
            name = (v.key, v.etag)
            if not v.good or self._loads[name] or v.key in given_up:
                continue
            if name not in self._delivered:
                self.harm["files never announced"] += 1
            elif any(key == v.key and etag != v.etag for key, etag in self._loads):
                self.harm["overwritten files not loaded again"] += 1
            else:
                self.harm[LOSSES] += 1
        self.harm["files loaded again"] = sum(n > 1 for n in self._loads.values())
        self.harm["files with several ledger rows"] = sum(
            n > 1 for n in Counter(key for (key,) in self.stored(LEDGER, "file_key")).values()
        )
        loaded = [Line(self.versions[name].target, 1, name, self.versions[name].modified) for name in self._loads]
        for target in (HARD, SOFT, LOG):
            want, have = self.expected(target, loaded), self.found(target)
            extra, missing = have - want, want - have
            if target == LOG:
                self.harm[DUPLICATES] += extra.total()
                continue
            keys = Counter(row[0] for row in have.elements())
            self.harm[DUPLICATES] += sum(n - 1 for n in keys.values())
            self.harm["rows out of order"] += sum(row[0] in keys for row in missing) + len(
                {row[0] for row in extra} - {row[0] for row in want}
            )
            self.harm["rows gone"] += sum(row[0] not in keys for row in missing)


@dataclass
class Toll:
    """What the guide's protocol did in a campaign, and how ours fared in the same histories."""

    histories: int = 0
    file_versions: int = 0
    harm: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Histories by each kind of harm; `any` and `ours` too."""


def toll(
    lab: Lab, histories: int, seed: int, *, ours: bool = True, progress: Callable[[Toll], None] = lambda _: None
) -> Toll:
    """Run the campaign's histories with the guide's handler, and with ours if wanted, and count."""
    taken = Toll()
    for number in range(seed, seed + histories):
        world = history(lab, number, make=GuideWorld)
        assert isinstance(world, GuideWorld)
        harm = +world.harm
        taken.histories += 1
        taken.file_versions += len(world.versions)
        taken.harm += harm
        taken.broken.update(harm.keys())
        taken.broken["any"] += bool(harm.keys() - EXCUSED)
        if ours:
            taken.broken["ours"] += bool(campaign(lab, 1, number).violations)
        progress(taken)
    return taken


def report(lab: Lab, histories: int, seed: int) -> int:
    """Print a campaign's toll; 0 if the guide's protocol doubled and lost, and ours did neither."""

    def progress(taken: Toll) -> None:
        if taken.histories % 50 == 0:
            print(f"{taken.histories} histories, {taken.broken['any']} broken", file=sys.stderr)

    taken = toll(lab, histories, seed, progress=progress)
    print(f"{taken.histories} histories (seeds {seed} to {seed + histories - 1}), {taken.file_versions} file versions")
    for what, number in taken.harm.most_common():
        print(f"{number:6} {what} in {taken.broken[what]} histories")
    print(f"broken: {taken.broken['any']} with the guide's protocol, {taken.broken['ours']} with ours")
    return 0 if taken.harm[DUPLICATES] and taken.harm[LOSSES] and not taken.broken["ours"] else 1
