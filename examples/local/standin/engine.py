"""Versions, snapshots, commits: what Firebolt promises of transactions, kept by us and not by DuckDB.

Rules (docs.firebolt.io, "Explicit Transactions" and "Transactions and concurrency" of "Data management"):
a transaction reads its snapshot and its own writes; at COMMIT the tablets whose rows it updated or deleted are
compared with those that others committed since the snapshot, and the first committer has won; INSERTs never
conflict; metadata is serializable; a failed statement aborts the transaction; 100 statements, 24 hours.

How: every stored row carries ``rid``, the commit ``b`` that made it and the commit ``e`` that ended it. A
transaction keeps two private (temporary) tables per table that it writes: ``i<id>`` with its new rows and
``d<id>`` with the row ids that it ends. COMMIT writes them under one lock, in one DuckDB transaction together with
the catalog, so committed work survives SIGKILL and the rest never happened.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb

from . import catalog, dialect
from .catalog import Location, Relation, Table
from .errors import SqlError, aborted
from .s3 import S3

LIVE = (1 << 63) - 1


def run(cursor: duckdb.DuckDBPyConnection, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """Executes DuckDB SQL and reads all of its result (DuckDB refuses other work before that)."""
    return cursor.execute(sql, values).fetchall()


@dataclass
class Options:
    """Switches for what is unknown of Firebolt, and limits that it documents."""

    database: str = "firebolt"
    engine: str = "standin"
    account: str = "local"
    #: what conflicts: all rows of a partition (a table without partitions is one), or the same rows
    conflicts: Literal["tablet", "row"] = "tablet"
    #: HTTP status of a conflict; 200 means errors in the body of a successful answer
    conflict_status: int = 400
    #: Firebolt Core: at most one write transaction; the oldest open explicit transaction owns the right to write
    single_writer: bool = False
    idle_timeout_s: float = 24 * 3600
    max_statements: int = 100
    #: MERGE that matches one target row several times: refuse, or take any
    merge_duplicates: Literal["error", "any"] = "error"
    #: refuse ALTER TABLE of a table that a view reads (documented before release 4.31)
    views_block_alter: bool = True
    #: assignments by the strict reading of "Data types"
    strict_types: bool = True
    #: tell the client to forget its transaction when COMMIT fails
    forget_failed_commit: bool = False
    #: client_id -> client_secret; None accepts any
    credentials: dict[str, str] | None = None
    #: the engine's clock
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass
class Commit:
    """What one commit changed, for the comparison with transactions that began before it."""

    number: int
    #: table id -> tablets with updated or deleted rows
    tablets: dict[int, set[str]]
    #: table id -> ids of updated or deleted rows (only with conflicts="row")
    rows: dict[int, set[int]]
    #: ids of all tables whose rows changed
    tables: set[int]


@dataclass
class Transaction:
    """One transaction, explicit or of a single statement."""

    id: str
    explicit: bool
    snapshot: int
    base: dict[str, Relation]
    cursor: duckdb.DuckDBPyConnection
    started: datetime
    relations: dict[str, Relation] = field(default_factory=dict)
    #: names whose relation this transaction made, changed or dropped
    changed: set[str] = field(default_factory=set)
    #: names that must be unchanged at COMMIT (a new view's sources)
    relied_on: set[str] = field(default_factory=set)
    #: ids of tables made here
    created: set[int] = field(default_factory=set)
    #: column stored name -> its value for older rows, of columns added here
    added: dict[str, tuple[Table, str]] = field(default_factory=dict)
    #: ids of tables with a private ``i`` and ``d`` table
    written: set[int] = field(default_factory=set)
    #: table id -> at most so many rows are in its private ``i`` table
    own_rows: dict[int, int] = field(default_factory=dict)
    statements: int = 0
    failed: bool = False
    ended: str = ""
    last_used: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def writes(self) -> bool:
        return bool(self.written or self.changed)


class Engine:
    """The database: storage, transactions, catalog. Thread-safe."""

    def __init__(self, state: Path | None, s3: S3, options: Options) -> None:
        self.options = options
        self.s3 = s3
        if state is not None:
            state.mkdir(parents=True, exist_ok=True)
        path = str(state / "standin.duckdb") if state else ":memory:"
        config: dict[str, Any] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "threads": "2",
        }
        self._db = duckdb.connect(path, config=config)
        for old in state.glob("standin-scratch-*") if state else ():
            shutil.rmtree(old)
        self.scratch = Path(tempfile.mkdtemp(prefix="standin-scratch-", dir=state))
        for setting in (
            "TimeZone = 'UTC'",
            "integer_division = true",
            "default_null_order = 'nulls_last_on_asc_first_on_desc'",
            f"temp_directory = '{self.scratch}'",
        ):
            run(self._db, f"SET GLOBAL {setting}")
        self._mutex = threading.RLock()
        self._commit_lock = threading.Lock()
        self._log: list[Commit] = []
        self._open: dict[str, Transaction] = {}
        self._lsn = itertools.count(int(time.time() * 1000) << 16)
        self.history: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.transactions: deque[dict[str, Any]] = deque(maxlen=1_000)
        self._dead_rows: dict[int, int] = {}
        self._dropped: list[tuple[int, int]] = []
        self._load()

    # ------------------------------------------------------------ storage

    def _load(self) -> None:
        run(self._db, "CREATE TABLE IF NOT EXISTS fb_meta (k VARCHAR, v VARCHAR)")
        for macro in dialect.MACROS:
            run(self._db, f"CREATE OR REPLACE MACRO {macro}")
        meta: dict[str, str] = dict(run(self._db, "SELECT k, v FROM fb_meta"))
        if not meta:
            start = {"commit": "0", "next_id": "1", "catalog": catalog.dump({}, {})}
            self._db.executemany("INSERT INTO fb_meta VALUES (?, ?)", list(start.items()))
            meta = start
        self.last_commit = int(meta["commit"])
        self._ids = itertools.count(int(meta["next_id"]))
        self.relations, self.locations = catalog.load(meta["catalog"])
        tables = {t.id for t in self.relations.values() if isinstance(t, Table)}
        for (name,) in run(self._db, "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 't%'"):
            if int(name[1:]) not in tables:
                run(self._db, f"DROP TABLE {name}")
        self._next_row = {t: run(self._db, f"SELECT coalesce(max(rid), 0) + 1 FROM main.t{t}")[0][0] for t in tables}

    def new_id(self) -> int:
        """A number for a table or column that is never used twice."""
        with self._mutex:
            return next(self._ids)

    def close(self) -> None:
        """Ends all transactions and closes the database."""
        with self._commit_lock, self._mutex:
            self._open.clear()
            self._db.close()
        shutil.rmtree(self.scratch)

    # ------------------------------------------------------------ begin, find, end

    def begin(self, explicit: bool) -> Transaction:
        """A new transaction on the newest snapshot."""
        self.expire()
        with self._mutex:
            tx = Transaction(
                id=f"{next(self._lsn):020x}",
                explicit=explicit,
                snapshot=self.last_commit,
                base=self.relations,
                relations=self.relations,
                cursor=self._db.cursor(),
                started=self.options.clock(),
            )
            self._open[tx.id] = tx
        return tx

    def find(self, transaction_id: str) -> Transaction:
        """The open transaction of that id. SqlError when it never was, has ended, or has expired."""
        self.expire()
        with self._mutex:
            tx = self._open.get(transaction_id)
        if tx is None or not tx.explicit:
            raise SqlError(f"transaction {transaction_id} does not exist or has ended", name="Transaction Error")
        return tx

    def expire(self) -> None:
        """Rolls back explicit transactions that were idle for longer than the limit."""
        limit = time.monotonic() - self.options.idle_timeout_s
        with self._mutex:
            old = [tx for tx in self._open.values() if tx.explicit and tx.last_used < limit]
        for tx in old:
            if tx.lock.acquire(blocking=False):
                try:
                    if tx.last_used < limit:
                        self.rollback(tx)
                finally:
                    tx.lock.release()

    def rollback(self, tx: Transaction) -> None:
        """Ends a transaction without effect."""
        self._end(tx, "ROLLED BACK")

    def _end(self, tx: Transaction, status: str) -> None:
        with self._mutex:
            if tx.ended:
                return
            tx.ended = status
            self._open.pop(tx.id, None)
            lsn = f"{next(self._lsn):020x}"
            if tx.explicit or tx.writes:
                self.transactions.append(
                    {
                        "begin_lsn": tx.id,
                        "commit_lsn": lsn if status == "COMMITTED" else None,
                        "rollback_lsn": lsn if status != "COMMITTED" else None,
                        "status": status,
                        "user_name": "standin",
                        "start_time": tx.started,
                        "end_time": self.options.clock(),
                    }
                )
        tx.cursor.close()

    def transaction_rows(self) -> list[dict[str, Any]]:
        """Rows of information_schema.transactions: ended ones and those in progress."""
        with self._mutex:
            running = [
                {"begin_lsn": t.id, "status": "IN-PROGRESS", "user_name": "standin", "start_time": t.started}
                for t in self._open.values()
                if t.explicit
            ]
            return list(self.transactions) + running

    # ------------------------------------------------------------ statements

    def enter(self, tx: Transaction) -> None:
        """Counts a statement of the transaction; SqlError when it may not run any more. Caller holds its lock."""
        tx.last_used = time.monotonic()
        if tx.ended:
            raise SqlError(f"transaction {tx.id} does not exist or has ended", name="Transaction Error")
        if tx.failed:
            raise aborted()
        tx.statements += 1
        if tx.explicit and tx.statements > self.options.max_statements:
            raise SqlError(
                f"a transaction is limited to {self.options.max_statements} statements", name="Transaction Error"
            )

    def may_write(self, tx: Transaction) -> None:
        """Firebolt Core ("Differences"): one write transaction at a time, and none beside an explicit one."""
        if not self.options.single_writer:
            return
        with self._mutex:
            others = [t for t in self._open.values() if t is not tx and (t.explicit or t.writes)]
        if any(other.id < tx.id for other in others):
            raise SqlError(
                "cannot start a write transaction: another write transaction is active and at most one is "
                "allowed in Firebolt Core",
                name="Transaction Error",
            )

    # ------------------------------------------------------------ commit

    def commit(self, tx: Transaction) -> None:
        """Makes the transaction's work visible and durable, or ends it and raises SqlError (conflict)."""
        if not tx.writes:
            self._end(tx, "COMMITTED")
            return
        try:
            with self._commit_lock:
                touched = self._touched(tx)
                self._check_conflicts(tx, touched)
                self._check_metadata(tx, touched)
                self._install(tx, touched)
        except BaseException:
            self.rollback(tx)
            raise
        self._end(tx, "COMMITTED")
        self._vacuum(touched)

    def _touched(self, tx: Transaction) -> Commit:
        by_rows = self.options.conflicts == "row"
        commit = Commit(self.last_commit + 1, {}, {}, set())
        for table in tx.written:
            tablets = {r[0] for r in run(tx.cursor, f"SELECT DISTINCT tab FROM temp.d{table}")}
            if tablets:
                commit.tablets[table] = tablets
                if by_rows:
                    commit.rows[table] = {r[0] for r in run(tx.cursor, f"SELECT rid FROM temp.d{table}")}
            if tablets or tx.own_rows.get(table):
                commit.tables.add(table)
        return commit

    def _check_conflicts(self, tx: Transaction, mine: Commit) -> None:
        conflicts = 0
        transactions = 0
        for other in self._log:
            if other.number <= tx.snapshot:
                continue
            sets: list[tuple[Any, Any]] = [
                (mine.rows.get(t, set()), other.rows.get(t, set()))
                if self.options.conflicts == "row"
                else (tablets, other.tablets.get(t, set()))
                for t, tablets in mine.tablets.items()
            ]
            found = sum(len(a & b) for a, b in sets)
            conflicts += found
            transactions += bool(found)
        if conflicts:
            raise self.conflict(
                f"detected {conflicts} conflicts with {transactions} transactions on transaction commit"
            )

    def conflict(self, what: str) -> SqlError:
        """The error of a COMMIT that lost."""
        return SqlError(
            f"Failed to commit transaction, error: '{what}', code: 9",
            name="Transaction Error",
            code="9",
            http_status=self.options.conflict_status,
        )

    def _check_metadata(self, tx: Transaction, mine: Commit) -> None:
        """Metadata is serializable: what we changed or wrote into is as it was when we began."""
        for name in tx.changed | tx.relied_on:
            if self.relations.get(name) is not tx.base.get(name):
                raise self.conflict(f"metadata of '{name}' was changed concurrently")
        now = {t.id: t for t in self.relations.values() if isinstance(t, Table)}
        before = {t.id: t for t in tx.base.values() if isinstance(t, Table)}
        for table in mine.tables - tx.created:
            if now.get(table) is not before.get(table):
                raise self.conflict(f"table '{before[table].name}' was changed or dropped concurrently")
        altered = {t.id for n in tx.changed if isinstance(t := tx.base.get(n), Table)}
        for other in self._log:
            if other.number > tx.snapshot and altered & other.tables:
                raise self.conflict("a table that this transaction alters was written concurrently")

    def _install(self, tx: Transaction, commit: Commit) -> None:
        relations = dict(self.relations)
        for name in tx.changed:
            relations.pop(name, None)
            if (changed := tx.relations.get(name)) is not None:
                relations[name] = changed
        tables = {t.id: t for t in relations.values() if isinstance(t, Table)}
        do = functools.partial(run, tx.cursor)
        next_row = dict(self._next_row)
        dead: dict[int, int] = {}
        do("BEGIN")
        try:
            for stored, (table, value) in tx.added.items():
                column = next((c for c in table.columns if c.stored == stored), None)
                if column is not None and table.id in tables and table.id not in tx.created:
                    do(f"ALTER TABLE main.t{table.id} ADD COLUMN {stored} {column.type.duckdb} DEFAULT {value}")
            for table_id in tx.created & tables.keys():
                columns = ", ".join(f"{c.stored} {c.type.duckdb}" for c in tables[table_id].columns)
                do(f"CREATE TABLE main.t{table_id} ({columns}, rid BIGINT, b BIGINT, e BIGINT)")
                next_row[table_id] = 1
            for table_id in commit.tables & tables.keys():
                if table_id in commit.tablets:
                    dead[table_id] = do(
                        f"UPDATE main.t{table_id} SET e = {commit.number} "
                        f"WHERE e = {LIVE} AND rid IN (SELECT rid FROM temp.d{table_id})"
                    )[0][0]
                names = ", ".join(c.stored for c in tables[table_id].columns)
                made = do(
                    f"INSERT INTO main.t{table_id} ({names}, rid, b, e) SELECT {names}, "
                    f"{next_row[table_id]} + row_number() OVER (), {commit.number}, {LIVE} FROM temp.i{table_id}"
                )[0][0]
                next_row[table_id] += made + 1
            if tx.changed:
                do("UPDATE fb_meta SET v = ? WHERE k = 'catalog'", [catalog.dump(relations, self.locations)])
                do("UPDATE fb_meta SET v = ? WHERE k = 'next_id'", [str(self.new_id() + 1)])
            do("UPDATE fb_meta SET v = ? WHERE k = 'commit'", [str(commit.number)])
            do("COMMIT")
        except duckdb.Error as error:
            do("ROLLBACK")
            raise SqlError(f"Failed to commit transaction, error: '{error}'", name="Transaction Error") from error
        gone_tables = {t.id for t in self.relations.values() if isinstance(t, Table)} - tables.keys()
        with self._mutex:
            self._next_row = next_row
            self.relations = relations
            self.last_commit = commit.number
            self._log.append(commit)
            self._dropped += [(commit.number, table) for table in gone_tables]
            for table_id, count in dead.items():
                self._dead_rows[table_id] = self._dead_rows.get(table_id, 0) + count

    def put_location(self, name: str, location: Location | None) -> None:
        """Makes or drops a location, at once: locations are not transactional."""
        with self._commit_lock:
            locations = dict(self.locations)
            locations.pop(name, None)
            if location is not None:
                locations[name] = location
            text = catalog.dump(self.relations, locations)
            cursor = self._db.cursor()
            run(cursor, "UPDATE fb_meta SET v = ? WHERE k = 'catalog'", [text])
            cursor.close()
            self.locations = locations

    # ------------------------------------------------------------ vacuum

    def _vacuum(self, touched: Commit, threshold: int = 1_000) -> None:
        """Removes row versions, dropped tables and log entries that no open snapshot can need."""
        with self._mutex:
            reading = [t.snapshot for t in self._open.values() if not t.failed]
            horizon = min(reading, default=self.last_commit)
            self._log = [c for c in self._log if c.number > horizon]
            drop = [t for number, t in self._dropped if number <= horizon]
            due = [t for t, dead in self._dead_rows.items() if dead >= threshold and t in touched.tables]
        if not drop and not due:
            return
        with self._commit_lock:
            cursor = self._db.cursor()
            for table in drop:
                run(cursor, f"DROP TABLE IF EXISTS main.t{table}")
            with self._mutex:
                self._dropped = [d for d in self._dropped if d[1] not in drop]
            for table in set(due) - set(drop):
                run(cursor, f"DELETE FROM main.t{table} WHERE e <= {horizon}")
                left = run(cursor, f"SELECT count(*) FROM main.t{table} WHERE e < {LIVE}")[0][0]
                with self._mutex:
                    self._dead_rows[table] = left
            cursor.close()

    # ------------------------------------------------------------ a transaction's changes

    def private(self, tx: Transaction, table: Table) -> None:
        """Makes the transaction's private tables for ``table`` unless they are there."""
        if table.id not in tx.written:
            self.may_write(tx)
            columns = ", ".join(f"{c.stored} {c.type.duckdb}" for c in table.columns)
            run(tx.cursor, f"CREATE TEMP TABLE i{table.id} ({columns})")
            run(tx.cursor, f"CREATE TEMP TABLE d{table.id} (rid BIGINT, tab VARCHAR)")
            tx.written.add(table.id)

    def define(self, tx: Transaction, name: str, relation: Relation | None) -> None:
        """Makes, replaces or (None) drops a relation in the transaction's catalog."""
        if not tx.changed:
            self.may_write(tx)
            tx.relations = dict(tx.relations)
        tx.changed.add(name)
        tx.relations.pop(name, None)
        if relation is not None:
            tx.relations[name] = relation

    def add_column(self, tx: Transaction, table: Table, column: catalog.Column, value: str) -> None:
        """Adds a column whose value is ``value`` (DuckDB SQL) in older rows."""
        new = replace(table, columns=(*table.columns, column))
        self.define(tx, table.name, new)
        tx.added[column.stored] = (new, value)
        if table.id in tx.written:
            kind = column.type.duckdb
            run(tx.cursor, f"ALTER TABLE temp.i{table.id} ADD COLUMN {column.stored} {kind} DEFAULT {value}")
