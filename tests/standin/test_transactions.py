"""Snapshot isolation, first committer wins at COMMIT, limits and states of explicit transactions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from firebolt.utils.exception import FireboltError, FireboltStructuredError, OperationalError

from standin import StandIn

Opener = Callable[[], Any]
TURNS = "CREATE TABLE turns (name TEXT NOT NULL, n INT) PARTITION BY name"
CONFLICT = "detected 1 conflicts with 1 transactions on transaction commit"


@pytest.fixture
def turns(sql: Any) -> Any:
    sql(TURNS)
    sql("INSERT INTO turns VALUES ('a', 0), ('b', 0)")
    return sql


def post(engine: StandIn, sql: str, **parameters: str) -> httpx.Response:
    return httpx.post(engine.url, params={"database": "firebolt", **parameters}, content=sql)


def test_first_committer_wins_at_commit(turns: Any, begin: Opener) -> None:
    long, short = begin(), begin()
    long("UPDATE turns SET n = n + 1 WHERE name = 'a'")
    short("UPDATE turns SET n = n + 10 WHERE name = 'a'")
    short.commit()
    assert long("SELECT n FROM turns WHERE name = 'a'") == [[1]]
    with pytest.raises(FireboltError, match=CONFLICT):
        long.commit()
    assert turns("SELECT n FROM turns WHERE name = 'a'") == [[10]]


def test_implicit_statement_beats_open_transaction(turns: Any, begin: Opener) -> None:
    long = begin()
    long("UPDATE turns SET n = 5 WHERE name = 'a'")
    turns("UPDATE turns SET n = 7 WHERE name = 'a'")
    with pytest.raises(FireboltError, match="code: 9"):
        long.commit()
    assert turns("SELECT n FROM turns WHERE name = 'a'") == [[7]]


def test_other_partition_does_not_conflict(turns: Any, begin: Opener) -> None:
    one, two = begin(), begin()
    one("UPDATE turns SET n = 1 WHERE name = 'a'")
    two("UPDATE turns SET n = 2 WHERE name = 'b'")
    two.commit()
    one.commit()
    assert turns("SELECT n FROM turns ORDER BY name") == [[1], [2]]


@pytest.mark.parametrize(("conflicts", "second_fails"), [("tablet", True), ("row", False)])
def test_distinct_rows_of_one_tablet(make_engine: Any, conflicts: str, second_fails: bool, connect_to: Any) -> None:
    engine = make_engine(conflicts=conflicts)
    sql = connect_to(engine)
    sql("CREATE TABLE t (k INT, v INT)")
    sql("INSERT INTO t VALUES (1, 0), (2, 0)")
    one, two = connect_to(engine, False), connect_to(engine, False)
    one("UPDATE t SET v = 1 WHERE k = 1")
    two("DELETE FROM t WHERE k = 2")
    two.commit()
    if second_fails:
        with pytest.raises(FireboltError, match="conflicts"):
            one.commit()
    else:
        one.commit()
        assert sql("SELECT k, v FROM t") == [[1, 1]]


def test_same_row_conflicts_with_row_granularity(make_engine: Any, connect_to: Any) -> None:
    engine = make_engine(conflicts="row")
    sql = connect_to(engine)
    sql("CREATE TABLE t (k INT)")
    sql("INSERT INTO t VALUES (1)")
    one = connect_to(engine, False)
    one("DELETE FROM t")
    sql("UPDATE t SET k = 2")
    with pytest.raises(FireboltError, match="conflicts"):
        one.commit()


def test_write_skew_is_allowed(turns: Any, begin: Opener) -> None:
    one, two = begin(), begin()
    claim = "INSERT INTO turns SELECT 'c', 1 WHERE NOT EXISTS (SELECT 1 FROM turns WHERE name = 'c')"
    one(claim)
    two(claim)
    one.commit()
    two.commit()
    assert turns("SELECT COUNT(*) FROM turns WHERE name = 'c'") == [[2]]


def test_two_merges_insert_one_key_twice(turns: Any, begin: Opener) -> None:
    merge = (
        "MERGE INTO turns AS t USING (SELECT 'new' AS name) AS s ON t.name = s.name "
        "WHEN MATCHED THEN UPDATE SET n = 2 WHEN NOT MATCHED THEN INSERT (name, n) VALUES (s.name, 1)"
    )
    one, two = begin(), begin()
    one(merge)
    two(merge)
    one.commit()
    two.commit()
    assert turns("SELECT n FROM turns WHERE name = 'new'") == [[1], [1]]
    three, four = begin(), begin()
    three(merge)
    four(merge)
    three.commit()
    with pytest.raises(FireboltError, match="detected 1 conflicts"):
        four.commit()


def test_update_without_rows_conflicts_with_nothing(turns: Any, begin: Opener) -> None:
    one = begin()
    one("UPDATE turns SET n = 1 WHERE name = 'nobody'")
    turns("UPDATE turns SET n = 9")
    one.commit()


def test_reads_its_snapshot_and_its_own_writes(turns: Any, begin: Opener) -> None:
    one = begin()
    assert one("SELECT SUM(n) FROM turns") == [[0]]
    turns("UPDATE turns SET n = 5")
    turns("INSERT INTO turns VALUES ('c', 5)")
    assert one("SELECT COUNT(*), SUM(n) FROM turns") == [[2, 0]]
    one("INSERT INTO turns VALUES ('d', 7), ('e', 8)")
    one("UPDATE turns SET n = n + 1 WHERE name = 'd'")
    one("DELETE FROM turns WHERE name = 'e'")
    assert one("SELECT name, n FROM turns ORDER BY name") == [["a", 0], ["b", 0], ["d", 8]]
    one.commit()
    assert turns("SELECT COUNT(*), SUM(n) FROM turns") == [[4, 23]]


def test_rollback_leaves_nothing(turns: Any, begin: Opener) -> None:
    one = begin()
    one("UPDATE turns SET n = 5")
    one.rollback()
    assert turns("SELECT SUM(n) FROM turns") == [[0]]


def test_failed_statement_aborts_until_rollback(turns: Any, begin: Opener) -> None:
    one = begin()
    one("UPDATE turns SET n = 5")
    with pytest.raises(FireboltError, match="does not exist"):
        one("SELECT * FROM nowhere")
    with pytest.raises(FireboltError, match="current transaction is aborted, commands ignored until end"):
        one("SELECT 1")
    with pytest.raises(FireboltError, match="current transaction is aborted"):
        one.commit()
    one.rollback()
    assert one("SELECT SUM(n) FROM turns") == [[0]]


@pytest.mark.parametrize("broken", ["SELEC 1", "SELECT made_up(1)", "COPY x FROM y"])
def test_refused_statement_aborts_too(turns: Any, begin: Opener, broken: str) -> None:
    one = begin()
    one("UPDATE turns SET n = 5")
    with pytest.raises(FireboltError):
        one(broken)
    with pytest.raises(FireboltError, match="current transaction is aborted"):
        one("SELECT 1")


def test_failed_commit_ends_the_transaction(turns: Any, begin: Opener) -> None:
    one = begin()
    one("UPDATE turns SET n = 5")
    turns("UPDATE turns SET n = 6")
    with pytest.raises(FireboltError, match="conflicts"):
        one.commit()
    assert one.connection.in_transaction
    with pytest.raises(FireboltError, match="does not exist or has ended"):
        one("SELECT 1")


def test_failed_commit_may_remove_the_transaction(make_engine: Any, connect_to: Any) -> None:
    engine = make_engine(forget_failed_commit=True)
    sql, one = connect_to(engine), connect_to(engine, False)
    sql(TURNS)
    sql("INSERT INTO turns VALUES ('a', 1)")
    one("UPDATE turns SET n = 5")
    sql("UPDATE turns SET n = 6")
    with pytest.raises(FireboltError, match="conflicts"):
        one.commit()
    assert not one.connection.in_transaction


def test_unknown_transaction_nesting_and_stray_commit(engine: StandIn, begin: Opener) -> None:
    assert "does not exist" in post(engine, "SELECT 1", transaction_id="00ff").text
    assert "no transaction in progress" in post(engine, "COMMIT").text
    assert "no transaction in progress" in post(engine, "ROLLBACK").text
    one = begin()
    one("SELECT 1")
    assert "already a transaction" in post(engine, "BEGIN", transaction_id=str(one.id)).text


def test_current_transaction_and_rollback_by_lsn(turns: Any, begin: Opener) -> None:
    one = begin()
    one("UPDATE turns SET n = 5")
    assert one("SELECT CURRENT_TRANSACTION()") == [[one.id]]
    assert turns("SELECT CURRENT_TRANSACTION()") == [[""]]
    seen = turns(f"SELECT status FROM information_schema.transactions WHERE begin_lsn = '{one.id}'")
    assert seen == [["IN-PROGRESS"]]
    turns(f"ROLLBACK TRANSACTION '{one.id}'")
    with pytest.raises(FireboltError, match="has ended"):
        one("SELECT 1")
    seen = turns(f"SELECT status FROM information_schema.transactions WHERE begin_lsn = '{one.id}'")
    assert seen == [["ROLLED BACK"]]


def test_statement_limit(make_engine: Any, connect_to: Any) -> None:
    engine = make_engine(max_statements=3)
    one = connect_to(engine, False)
    for _ in range(3):
        one("SELECT 1")
    with pytest.raises(FireboltError, match="limited to 3 statements"):
        one("SELECT 1")
    with pytest.raises(FireboltError, match="current transaction is aborted"):
        one("SELECT 1")
    one.rollback()
    for _ in range(3):
        one("SELECT 1")
    one.commit()


def test_idle_limit(make_engine: Any, connect_to: Any) -> None:
    engine = make_engine(idle_timeout_s=0.1)
    one = connect_to(engine, False)
    one("SELECT 1")
    time.sleep(0.2)
    with pytest.raises(FireboltError, match="has ended"):
        one("SELECT 1")


def test_autocommit_connection_ignores_begin(turns: Any) -> None:
    """The SDK's trap: with autocommit, BEGIN opens a transaction that the next statements do not belong to."""
    turns("BEGIN")
    turns("UPDATE turns SET n = 3")
    with pytest.raises(FireboltError, match="no transaction in progress"):
        turns("ROLLBACK")
    assert turns("SELECT SUM(n) FROM turns") == [[6]]


def test_single_writer(make_engine: Any, connect_to: Any) -> None:
    engine = make_engine(single_writer=True)
    sql = connect_to(engine)
    sql(TURNS)
    sql("INSERT INTO turns VALUES ('a', 1), ('b', 1)")
    one, two = connect_to(engine, False), connect_to(engine, False)
    one("UPDATE turns SET n = 5 WHERE name = 'a'")
    assert two("SELECT n FROM turns WHERE name = 'b'") == [[1]]
    with pytest.raises(FireboltError, match="write transaction"):
        two("UPDATE turns SET n = 5 WHERE name = 'b'")
    with pytest.raises(FireboltError, match="write transaction"):
        sql("INSERT INTO turns VALUES ('c', 1)")
    with pytest.raises(FireboltError, match="write transaction"):
        sql("CREATE TABLE x (a INT)")
    two.rollback()
    one.commit()
    two("UPDATE turns SET n = 6 WHERE name = 'b'")
    two.commit()
    assert sql("SELECT SUM(n) FROM turns") == [[11]]


@pytest.mark.parametrize("status", [400, 409, 500, 200])
def test_conflict_status(make_engine: Any, status: int, connect_to: Any) -> None:
    engine = make_engine(conflict_status=status)
    sql, one = connect_to(engine), connect_to(engine, False)
    sql(TURNS)
    sql("INSERT INTO turns VALUES ('a', 1)")
    one("UPDATE turns SET n = 5")
    sql("UPDATE turns SET n = 6")
    kind = OperationalError if status == 500 else FireboltStructuredError
    with pytest.raises(kind, match=CONFLICT):
        one.commit()


def test_error_shape(engine: StandIn) -> None:
    reply = post(engine, "SELECT * FROM nowhere", output_format="JSON_Compact")
    error = json.loads(reply.text)["errors"][0]
    assert reply.status_code == 400
    assert error["description"] == "relation 'nowhere' does not exist"
    assert {"code", "name", "severity", "description", "location"} <= error.keys()


def test_many_clients_on_one_counter(turns: Any, engine: StandIn, connect_to: Any) -> None:
    """Counting with retries loses no increment: each success is exactly one."""
    done = []

    def work() -> None:
        mine = connect_to(engine, False)
        for _ in range(6):
            try:
                mine("UPDATE turns SET n = n + 1 WHERE name = 'a'")
                mine.commit()
                done.append(1)
            except FireboltError:
                mine.connection._reset_transaction_state()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns("SELECT n FROM turns WHERE name = 'a'") == [[len(done)]]
    assert done


def test_slow_statement_does_not_block_others(make_engine: Any, connect_to: Any) -> None:
    release = threading.Event()

    def wait(sql: str, transaction: str | None) -> None:
        if "slow" in sql:
            release.wait(10)

    engine = make_engine(before_statement=wait)
    slow = threading.Thread(target=lambda: connect_to(engine)("SELECT 'slow'"))
    slow.start()
    assert connect_to(engine)("SELECT 1") == [[1]]
    assert slow.is_alive()
    release.set()
    slow.join(10)


def test_old_versions_are_removed(turns: Any, engine: StandIn, begin: Opener) -> None:
    turns("CREATE TABLE big (k BIGINT, v INT)")
    turns("INSERT INTO big SELECT k, 0 FROM GENERATE_SERIES(1, 3000) AS g(k)")
    reader = begin()
    reader("SELECT 1")
    for _ in range(3):
        turns("UPDATE big SET v = v + 1")
    assert reader("SELECT COUNT(*), SUM(v) FROM big") == [[3000, 0]]
    reader.commit()
    turns("UPDATE big SET v = v + 1")
    name = next(t.id for t in engine.engine.relations.values() if t.name == "big")
    assert engine.engine._db.execute(f"SELECT count(*) FROM t{name}").fetchall() == [(3000,)]
    assert turns("SELECT COUNT(*), SUM(v) FROM big") == [[3000, 12000]]
