"""The questions. The first line of each docstring says what of the product depends on the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from assumptions.bench import Bench, Session, UnaskableError, is_conflict
from firebolt_cdc.apply import (
    PART_FULL_LOADS,
    Part,
    Place,
    create_table,
    merge_statement,
    row_key,
    target_columns,
)
from firebolt_cdc.config import Table
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import ENGINE_ERRORS, ConflictError, EngineRejectedError
from firebolt_cdc.ledger import GUARD
from firebolt_cdc.schema import OP, SEQ, Column, add_column

LOAD_STATEMENTS = 12 + 3 * PART_FULL_LOADS
"""A load's statements at most, but for one DDL per new column (`apply.Applier.load`)."""


class Verdict(StrEnum):
    """How an assumption fares. Of `information` the product depends on neither answer."""

    HOLDS = "holds"
    FAILS = "does not hold"
    INFORMATION = "information"
    UNASKED = "could not be asked"


@dataclass(frozen=True)
class Answer:
    """What the engine said to one question."""

    assumption: str
    verdict: Verdict
    seen: str


Asked = tuple[Verdict, str]
QUESTIONS: dict[str, Callable[[Bench], Asked]] = {}


def question(assumption: str) -> Callable[[Callable[[Bench], Asked]], Callable[[Bench], Asked]]:
    """Register a question."""

    def register(ask: Callable[[Bench], Asked]) -> Callable[[Bench], Asked]:
        QUESTIONS[assumption] = ask
        return ask

    return register


def ask(bench: Bench, assumption: str) -> Answer:
    """Ask one question. A statement that the engine rejects is a no; one that does not get through is no answer."""
    try:
        verdict, seen = QUESTIONS[assumption](bench)
    except UnaskableError as error:
        verdict, seen = Verdict.UNASKED, str(error)
    except ENGINE_ERRORS as error:
        failure = bench.seen(error)
        rejected = isinstance(failure.error, (EngineRejectedError, ConflictError))
        verdict, seen = Verdict.FAILS if rejected else Verdict.UNASKED, str(failure)
    finally:
        bench.end_sessions()
    return Answer(assumption, verdict, seen)


def _is(holds: bool, seen: str) -> Asked:
    return Verdict.HOLDS if holds else Verdict.FAILS, seen


def _same(found: object, expected: object) -> Asked:
    return _is(found == expected, f"{found}" if found == expected else f"{found} instead of {expected}")


@question("BEGIN gives the SDK a transaction id, and a statement keeps it")
def begin_gives_an_id(bench: Bench) -> Asked:
    """`Transaction.begin` takes a read without an id for a lost BEGIN, and writes nothing."""
    session = bench.session()
    session("SELECT 1")
    first = session.id
    session("SELECT 1")
    return _is(
        first is not None and session.id == first, f"transaction_id {first}, after another statement {session.id}"
    )


@question("A transaction sees its own writes; others do not before COMMIT")
def own_writes(bench: Bench) -> Asked:
    """The guard on `load_id`: it is true inside the load's transaction and nowhere else."""
    table = bench.table("(k INT, v INT)", "(1, 0)")
    writer, other = bench.begin(), bench.single
    writer(f"UPDATE {table} SET v = 5")
    count = f"SELECT COUNT(*) FROM {table} WHERE v = 5"
    found = [writer(count), other(count)]
    writer.commit()
    found.append(other(count))
    return _same([rows[0][0] for rows in found], [1, 0, 1])


@question("A transaction reads one snapshot")
def one_snapshot(bench: Bench) -> Asked:
    """The reading of `cdc_applied` in a load and a claim."""
    table = bench.table("(k INT)", "(1)")
    reader = bench.begin()
    reader(f"SELECT COUNT(*) FROM {table}")
    if failed := bench.failure(bench.single, f"INSERT INTO {table} VALUES (2)"):
        raise UnaskableError(str(failed))
    return _same(reader(f"SELECT COUNT(*) FROM {table}")[0][0], 1)


@question("Several write transactions may be open at once")
def several_writers(bench: Bench) -> Asked:
    """How many tables load at the same time; where it is one (Firebolt Core), its refusal must be known as a wait."""
    failed = bench.second_writer
    if failed is None:
        return Verdict.HOLDS, "two transactions wrote two tables"
    if is_conflict(failed):
        return Verdict.INFORMATION, f"one write transaction at a time, as Firebolt Core: {failed}"
    return Verdict.FAILS, str(failed)


@question("Two UPDATEs of one row: the first to commit wins, the second fails at COMMIT, whole, as a ConflictError")
def first_committer_wins(bench: Bench) -> Asked:
    """Exactly once: two loads of one file both UPDATE the table's turn, and one of them must not commit."""
    turns = bench.table("(name TEXT NOT NULL, n INT) PARTITION BY name", "('a', 0)", "('b', 0)")
    data = bench.table("(k INT)")
    long, short = bench.two_writers()
    long(f"UPDATE {turns} SET n = 1 WHERE name = 'a'")
    long(f"INSERT INTO {data} VALUES (1)")
    short(f"UPDATE {turns} SET n = 2 WHERE name = 'a'")
    short(f"INSERT INTO {data} VALUES (2)")
    short.commit()
    lost = bench.failure(long.commit)
    look = bench.single
    found = look(f"SELECT n FROM {turns} WHERE name = 'a'"), look(f"SELECT k FROM {data}")
    seen = f"{lost or 'both committed'}; left are {found}"
    return _is(is_conflict(lost) and found == ([[2]], [[2]]), seen)


@question("UPDATEs of rows in different partitions do not conflict")
def other_partition(bench: Bench) -> Asked:
    """Loads of different tables do not hold each other up: each turn has a partition of its own."""
    turns = bench.table("(name TEXT NOT NULL, n INT) PARTITION BY name", "('a', 0)", "('b', 0)")
    return _race(bench, f"UPDATE {turns} SET n = 1 WHERE name = 'a'", f"UPDATE {turns} SET n = 1 WHERE name = 'b'")


@question("Concurrent INSERTs into one table both commit")
def concurrent_inserts(bench: Bench) -> Asked:
    """`cdc_applied` has no partitions, and every load inserts into it."""
    table = bench.table("(k INT)", "(0)")
    return _race(bench, f"INSERT INTO {table} VALUES (1)", f"INSERT INTO {table} VALUES (2)")


@question("UPDATEs of different rows in one partition")
def granularity(bench: Bench) -> Asked:
    """Nothing: no two writers share a partition that they update. Says how large a tablet's part in a conflict is."""
    table = bench.table("(k INT, n INT)", "(1, 0)", "(2, 0)")
    verdict, seen = _race(bench, f"UPDATE {table} SET n = 1 WHERE k = 1", f"UPDATE {table} SET n = 1 WHERE k = 2")
    return Verdict.INFORMATION, "per row: " + seen if verdict is Verdict.HOLDS else "per tablet: " + seen


def _race(bench: Bench, first: str, second: str) -> Asked:
    long, short = bench.two_writers()
    lost = (
        bench.failure(long, first)
        or bench.failure(short, second)
        or bench.failure(short.commit)
        or bench.failure(long.commit)
    )
    return _is(lost is None, str(lost or "both committed"))


@question("A failed statement aborts its transaction")
def failure_aborts(bench: Bench) -> Asked:
    """A load whose statement fails leaves nothing, whatever is sent after it."""
    table = bench.table("(k INT)")
    session = bench.begin()
    session(f"INSERT INTO {table} VALUES (1)")
    failed = bench.failure(session, f"SELECT * FROM {bench.prefix}nowhere")
    after = bench.failure(session, f"INSERT INTO {table} VALUES (2)")
    committed = bench.failure(session.commit)
    session.close()
    rows = bench.single(f"SELECT k FROM {table}")
    seen = f"{failed}; next statement: {after}; COMMIT: {committed}; rows {rows}"
    return _is(None not in (failed, after) and rows == [], seen)


@question(
    "INSERT, UPDATE, MERGE, DELETE, CREATE TABLE, ALTER TABLE ADD COLUMN: one transaction, one ROLLBACK or COMMIT"
)
def one_transaction(bench: Bench) -> Asked:
    """A load creates and alters its target in the transaction that fills it."""
    table = bench.table("(k BIGINT, v INT)", "(1, 0)", "(2, 0)")
    made = f"{bench.prefix}made"
    bench.forget_later(f"CREATE TABLE {made}")
    before = _state(bench, table, made)
    session = bench.begin()
    _all_kinds(session, table, made)
    session.rollback()
    rolled_back = _state(bench, table, made)
    session = bench.begin()
    _all_kinds(session, table, made)
    session.commit()
    after = _state(bench, table, made)
    holds = rolled_back == before and after == (["k", "v", "w"], [[1, 5], [4, 7]], [[9]])
    return _is(holds, f"before {before}, after ROLLBACK {rolled_back}, after COMMIT {after}")


def _all_kinds(session: Session, table: str, made: str) -> None:
    session(f"INSERT INTO {table} VALUES (3, 0)")
    session(f"UPDATE {table} SET v = 5 WHERE k = 1")
    session(
        f"MERGE INTO {table} AS t USING (SELECT 4 AS k, 7 AS v) AS s ON t.k = s.k "
        "WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k, s.v)"
    )
    session(f"DELETE FROM {table} WHERE k IN (2, 3)")
    session(create_table(made, [Column("k", "BIGINT", False)], ["k"]))
    session(f"INSERT INTO {made} VALUES (9)")
    session(add_column(table, Column("w", "TEXT")))
    session(f"UPDATE {table} SET w = 'x' WHERE k = 1")


def _state(bench: Bench, table: str, made: str) -> tuple[object, object, object]:
    look = bench.single
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = ? ORDER BY ordinal_position"
    exists = look("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = ?", [made])[0][0]
    return (
        [row[0] for row in look(columns, [table])],
        look(f"SELECT k, v FROM {table} ORDER BY k"),
        look(f"SELECT k FROM {made}") if exists else None,
    )


@question("A column's default, as information_schema.columns spells it, makes the same column again")
def default_spelling(bench: Bench) -> Asked:
    """The table that a reload fills has its target's defaults."""
    first = bench.table("(k INT, t TEXT NOT NULL DEFAULT 'o''hare', n NUMERIC(10, 2) DEFAULT 1.5, v INT)")
    columns = target_columns(cast(Engine, _Catalogue(bench)), first)
    second = f"{bench.prefix}again"
    bench.create(create_table(second, columns, []))
    session = bench.single
    session(f"INSERT INTO {second} (k) VALUES (1)")
    return _same(session(f"SELECT k, t, n = 1.5, v FROM {second}"), [[1, "o'hare", True, None]])


class _Catalogue:
    """What of an engine `target_columns` needs."""

    def __init__(self, bench: Bench) -> None:
        self.query = bench.single


@question("PARTITION BY a TEXT column")
def text_partition(bench: Bench) -> Asked:
    """`cdc_tables`, `cdc_processed_files` and `cdc_tombstones` are partitioned by a name."""
    bench.create(f"CREATE TABLE {bench.prefix}parted (name TEXT NOT NULL, n INT) PRIMARY INDEX name PARTITION BY name")
    session = bench.single
    session(f"INSERT INTO {bench.prefix}parted VALUES ('a/b.c', 1), ('ü', 2)")
    return _same(session(f"SELECT n FROM {bench.prefix}parted WHERE name = 'a/b.c'"), [[1]])


@question("An UPDATE of the column of PARTITION BY moves the row")
def moved_partition(bench: Bench) -> Asked:
    """A ledger row follows its file when the file's table is listed, or gets another target."""
    table = f"{bench.prefix}moved"
    bench.create(f"CREATE TABLE {table} (k INT, name TEXT NOT NULL) PRIMARY INDEX k PARTITION BY name")
    session = bench.single
    session(f"INSERT INTO {table} VALUES (1, 'a'), (2, 'a')")
    session(f"UPDATE {table} SET name = 'b' WHERE k = 1")
    return _same(session(f"SELECT k, name FROM {table} ORDER BY k"), [[1, "b"], [2, "a"]])


@question("The migrations' CREATE TABLE and ALTER TABLE are accepted")
def ledger_tables(bench: Bench) -> Asked:
    """The ledger (`migrations/`), here under scratch names."""
    return _is(True, f"made as {bench.ledger}*")


@question("A load's MERGE: guard, tombstones, WHEN MATCHED AND … DELETE, newer rows only, NULL for absent columns")
def merge(bench: Bench) -> Asked:
    """Every merge table: a change is applied where it is newer than its row and its tombstone, under the guard."""
    target = f"{bench.prefix}target"
    table = Table.model_validate({"target": target, "mode": "merge", "primary_key": ["id"]})
    columns = (Column("id", "BIGINT", False), Column("v", "TEXT"), Column(SEQ, "TEXT"), Column("w", "TEXT"))
    part = Part(Place("merge", table, 1), (), columns, None, {}, {})
    changes = (
        "(1, 'new', 'U', 'c'), (2, NULL, 'D', 'c'), (3, 'new', 'I', 'c'), (4, 'old', 'U', 'a'), (5, 'old', 'I', 'c')"
    )
    selected = (
        f"SELECT CAST(p.id AS BIGINT) AS id, p.v, p.{OP}, p.{SEQ} FROM (VALUES {changes}) AS p (id, v, {OP}, {SEQ})"
    )
    sql, values = merge_statement(part, ["id", "v"], selected, [], "load", ["w"])
    _open_turn(bench, "merge")
    bench.create(create_table(target, columns, ["id"]))
    setup = bench.single
    setup(f"INSERT INTO {target} VALUES (1, 'was', 'b', 'w'), (2, 'was', 'b', 'w'), (4, 'was', 'b', 'w')")
    setup(
        bench.named("INSERT INTO cdc_tombstones (target_table, generation, row_key, seq, load_id) ")
        + f"SELECT '{target}', 1, {row_key(['id'], 'k')}, 'd', 'earlier' FROM (SELECT CAST(5 AS BIGINT) AS id) AS k"
    )
    session = bench.begin()
    session(bench.named(sql), values)
    unguarded = session(f"SELECT id, v, w FROM {target} ORDER BY id")
    _hold_guard(bench, session, "merge")
    session(bench.named(sql), values)
    session.commit()
    found = bench.single(f"SELECT id, v, w FROM {target} ORDER BY id")
    before, after = [[1, "was", "w"], [2, "was", "w"], [4, "was", "w"]], [[1, "new", None], [3, "new", None]]
    return _same([unguarded, found], [before, [*after, [4, "was", "w"]]])


@question("INSERT … SELECT … FROM (VALUES …) WHERE EXISTS (guard)")
def guarded_insert(bench: Bench) -> Asked:
    """Append tables, tombstones and `cdc_applied`: a statement outside the load's transaction writes nothing."""
    table = bench.table("(k INT, at TIMESTAMPTZ)")
    _open_turn(bench, "insert")
    sql = (
        f"INSERT INTO {table} (k, at) SELECT v.k, CURRENT_TIMESTAMP FROM (VALUES (?), (?)) AS v (k) "
        f"WHERE EXISTS ({bench.named(GUARD)})"
    )
    session = bench.begin()
    counts = []
    for _ in range(2):
        session(sql, [1, 2, "insert", "load"])
        counts.append(session(f"SELECT COUNT(*) FROM {table}")[0][0])
        _hold_guard(bench, session, "insert")
    return _same(counts, [0, 2])


def _open_turn(bench: Bench, turn: str) -> None:
    try:
        bench.single(
            f"INSERT INTO {bench.ledger}tables (turn, pipeline, version, generation, order_format, updated_at) "
            "SELECT ?, 'p', 0, 1, 'f', CURRENT_TIMESTAMP",
            [turn],
        )
    except ENGINE_ERRORS as error:
        raise UnaskableError(f"the ledger's scratch tables could not be used: {bench.seen(error)}") from error


def _hold_guard(bench: Bench, session: Session, turn: str) -> None:
    session(f"UPDATE {bench.ledger}tables SET version = version + 1, load_id = ? WHERE turn = ?", ["load", turn])


@question("UPDATE … FROM")
def update_from(bench: Bench) -> Asked:
    """The ledger's rows of a batch are written in one statement."""
    table = bench.table("(k INT, v TEXT)", "(1, 'a')", "(2, 'a')")
    session = bench.single
    session(f"UPDATE {table} AS t SET v = s.v FROM (VALUES (?, ?)) AS s (k, v) WHERE t.k = s.k", [1, "b"])
    return _same(session(f"SELECT k, v FROM {table} ORDER BY k"), [[1, "b"], [2, "a"]])


@question("DATE_ADD on CURRENT_TIMESTAMP, into a TIMESTAMPTZ")
def date_add(bench: Bench) -> Asked:
    """Leases are counted by the engine's clock."""
    table = bench.table("(k INT, until TIMESTAMPTZ)", "(1, NULL)")
    session = bench.begin()
    session(f"UPDATE {table} SET until = DATE_ADD('second', ?, CURRENT_TIMESTAMP)", [60])
    later = f"SELECT COUNT(*) FROM {table} WHERE until > DATE_ADD('second', ?, CURRENT_TIMESTAMP)"
    return _same([session(later, [seconds])[0][0] for seconds in (-3600, 0, 3600)], [1, 1, 0])


@question("The engine's clock moves between transactions")
def clock(bench: Bench) -> Asked:
    """A lease ends only if a later transaction sees a later time."""
    times = []
    for pause in (1.1, 0.0):
        session = bench.begin()
        times.append(session("SELECT CURRENT_TIMESTAMP")[0][0])
        session.commit()
        time.sleep(pause)
    return _is(times[1] > times[0], f"{times[0]}, and 1.1 s later {times[1]}")


@question(f"A transaction may have {LOAD_STATEMENTS} statements")
def statements(bench: Bench) -> Asked:
    """A load has so many at most; Firebolt documents 100."""
    most = 110
    session = bench.begin()
    for number in range(2, most + 1):
        if failed := bench.failure(session, "SELECT 1"):
            return _is(number > LOAD_STATEMENTS, f"the statement {number} failed: {failed}")
    return Verdict.HOLDS, f"{most} statements ran"


@question("READ_PARQUET of one object by URL, inside SELECT, INSERT and MERGE of a transaction")
def parquet_by_url(bench: Bench) -> Asked:
    """Loads without `locations`."""
    if bench.parquet_url is None:
        raise UnaskableError("--parquet-url is not given")
    return _read_parquet(bench, "READ_PARQUET(URL => ?)", [bench.parquet_url])


@question("READ_PARQUET of one object by LOCATION and PATTERN, inside SELECT, INSERT and MERGE of a transaction")
def parquet_by_location(bench: Bench) -> Asked:
    """Loads with `locations`."""
    if bench.location is None:
        raise UnaskableError("--location and --pattern are not given")
    return _read_parquet(bench, "READ_PARQUET(LOCATION => ?, PATTERN => ?)", list(bench.location))


def _read_parquet(bench: Bench, reading: str, parameters: list[str]) -> Asked:
    table = bench.table("(k TEXT, n BIGINT)")
    session = bench.begin()
    rows = session(f"SELECT COUNT(*) FROM {reading} AS p", parameters)[0][0]
    session(f"INSERT INTO {table} SELECT 'insert', COUNT(*) FROM {reading} AS p", parameters)
    session(
        f"MERGE INTO {table} AS t USING (SELECT 'merge' AS k, COUNT(*) AS n FROM {reading} AS p) AS s ON t.k = s.k "
        "WHEN MATCHED THEN UPDATE SET n = s.n WHEN NOT MATCHED THEN INSERT (k, n) VALUES (s.k, s.n)",
        parameters,
    )
    found = session(f"SELECT k, n FROM {table} ORDER BY k")
    return _is(rows > 0 and found == [["insert", rows], ["merge", rows]], f"{rows} rows, then {found}")
