"""The process: durability, command line, service-account handshake, hooks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from firebolt.client.auth import ClientCredentials, FireboltCore
from firebolt.db import connect
from firebolt.utils.exception import AccountNotFoundOrNoAccessError, AuthorizationError, FireboltError

from standin import CutConnection, SqlError, StandIn

PACKAGES = Path(__file__).parents[2] / "examples" / "local"


class Process:
    """``python -m standin`` on a state directory."""

    def __init__(self, state: Path, *arguments: str) -> None:
        port_file = state.parent / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "standin", "--state", str(state), "--port-file", str(port_file), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
        self.process = subprocess.Popen(command, env=environment)
        limit = time.monotonic() + 20
        while not port_file.exists() and self.process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{int(port_file.read_text())}"

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(tmp_path / "state", *arguments))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


@pytest.fixture
def session() -> Iterator[Any]:
    """Opens SDK connections by URL."""
    opened: list[Any] = []

    def open_session(url: str, autocommit: bool = True) -> Any:
        opened.append(connect(auth=FireboltCore(), url=url, database="firebolt", autocommit=autocommit))
        return opened[-1]

    yield open_session
    for connection in opened:
        connection.close()


def fetch(connection: Any, sql: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(sql)
    return cursor.fetchall() if cursor.description else None


def test_committed_work_survives_sigkill(run: Any, session: Any) -> None:
    engine = run()
    sql, open_ = session(engine.url), session(engine.url, False)
    fetch(sql, "CREATE TABLE t (k TEXT NOT NULL, v NUMERIC(5,2)) PRIMARY INDEX k PARTITION BY k")
    fetch(sql, "INSERT INTO t VALUES ('a', 1.5), ('b', 2)")
    fetch(sql, "UPDATE t SET v = v + 1 WHERE k = 'a'")
    fetch(sql, "CREATE VIEW v AS SELECT k FROM t")
    fetch(sql, "CREATE LOCATION l WITH SOURCE = AMAZON_S3 URL = 's3://b/x/'")
    fetch(open_, "UPDATE t SET v = 99")
    fetch(open_, "CREATE TABLE lost (a INT)")
    engine.end(signal.SIGKILL)

    again = run()
    lost = open_._transaction_id
    sql = session(again.url)
    assert fetch(sql, "SELECT k, CAST(v AS TEXT) FROM t ORDER BY k") == [["a", "2.50"], ["b", "2.00"]]
    assert fetch(sql, "SELECT * FROM v ORDER BY k") == [["a"], ["b"]]
    assert fetch(sql, "SELECT location_name FROM information_schema.locations") == [["l"]]
    assert fetch(sql, "SELECT table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'") == [["t"]]
    gone = httpx.post(again.url, params={"transaction_id": lost}, content="COMMIT")
    assert gone.status_code == 400
    assert "does not exist or has ended" in gone.text
    fetch(sql, "CREATE TABLE u (a INT)")
    fetch(sql, "DELETE FROM t WHERE k = 'a'")
    assert again.end(signal.SIGTERM) == 0

    third = session(run("--single-writer", "--conflict-status", "409").url)
    assert fetch(third, "SELECT k FROM t") == [["b"]]
    assert fetch(third, "SELECT COUNT(*) FROM u") == [[0]]


class LocalCredentials(ClientCredentials):
    """Credentials whose token endpoint is the stand-in."""

    url = ""

    def _make_auth_request(self) -> httpx.Request:
        request = super()._make_auth_request()
        return httpx.Request("POST", f"{self.url}/oauth/token", headers=request.headers, content=request.read())


def service_account(engine: StandIn, secret: str = "secret", **changes: Any) -> Any:
    auth = LocalCredentials("id", secret, use_token_cache=False)
    auth.url = engine.url
    arguments = {"account_name": "acme", "database": "warehouse", "engine_name": "loader", **changes}
    return connect(auth=auth, api_endpoint=engine.url, autocommit=False, disable_cache=True, **arguments)


@pytest.fixture
def managed(make_engine: Any) -> StandIn:
    engine: StandIn = make_engine(account="acme", database="warehouse", engine="loader", credentials={"id": "secret"})
    return engine


def test_service_account(managed: StandIn) -> None:
    with service_account(managed) as connection:
        fetch(connection, "CREATE TABLE t (a INT)")
        fetch(connection, "INSERT INTO t VALUES (1)")
        assert connection.in_transaction
        connection.commit()
        assert fetch(connection, "SELECT a, CURRENT_DATABASE(), CURRENT_ENGINE() FROM t") == [
            [1, "warehouse", "loader"]
        ]


def test_service_account_refusals(managed: StandIn) -> None:
    with pytest.raises(AuthorizationError):
        service_account(managed, "wrong")
    with pytest.raises(AccountNotFoundOrNoAccessError):
        service_account(managed, account_name="other")
    with pytest.raises(FireboltError, match="Database 'other' does not exist"):
        service_account(managed, database="other")
    with pytest.raises(FireboltError, match="Engine 'other' does not exist"):
        service_account(managed, engine_name="other")
    answer = httpx.post(managed.url, content="SELECT 1", headers={"Authorization": "Bearer forged"})
    assert answer.status_code == 401


def test_settings(engine: StandIn, sql: Any) -> None:
    sql("SET query_label = 'mine'")
    sql("SELECT 4711")
    labels = sql(
        "SELECT DISTINCT query_label FROM information_schema.engine_query_history WHERE query_text = 'SELECT 4711'"
    )
    assert labels == [["mine"]]
    with pytest.raises(FireboltError, match="unknown setting"):
        sql("SET made_up = 1")
    sql("SET timezone = 'Europe/Berlin'")
    assert sql("SELECT CAST(TIMESTAMPTZ '2024-07-01 00:00:00+00' AS TEXT)") == [["2024-07-01 02:00:00+02"]]


def test_streaming_answer(engine: StandIn, sql: Any) -> None:
    sql.cursor.execute_stream("SELECT k, CAST(k AS TEXT) FROM GENERATE_SERIES(1, 3) AS g(k)")
    assert list(sql.cursor) == [[1, "1"], [2, "2"], [3, "3"]]


def test_hooks(make_engine: Any, connect_to: Any) -> None:
    seen: list[str] = []

    def before(sql: str, transaction: str | None) -> None:
        seen.append(sql)
        if "refuse" in sql:
            raise SqlError("out of order", http_status=503)

    def after(sql: str, transaction: str | None) -> None:
        if "cut" in sql:
            raise CutConnection

    engine = make_engine(before_statement=before, after_statement=after)
    sql = connect_to(engine)
    sql("CREATE TABLE t (a TEXT)")
    with pytest.raises(FireboltError, match="out of order"):
        sql("INSERT INTO t VALUES ('refuse')")
    with pytest.raises(httpx.HTTPError):
        sql("INSERT INTO t VALUES ('cut')")
    assert connect_to(engine)("SELECT a FROM t") == [["cut"]]
    assert seen[0].startswith("CREATE TABLE")


def test_client_that_goes_away(engine: StandIn, sql: Any) -> None:
    """DML goes on when its client is gone (release notes 4.0): the INSERT takes effect all the same."""
    sql("CREATE TABLE t (a INT)")
    body = b"INSERT INTO t VALUES (1)"
    with socket.create_connection(("127.0.0.1", engine.port)) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    limit = time.monotonic() + 5
    while not sql("SELECT a FROM t") and time.monotonic() < limit:
        time.sleep(0.02)
    assert sql("SELECT a FROM t") == [[1]]
