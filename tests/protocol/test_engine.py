"""The SDK's ways to lose a transaction, to hang and to leak errors: `firebolt_cdc.engine` closes each."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import boto3
import httpx
import pytest
from firebolt.utils.cache import _firebolt_cache

from faults import CONFLICT_TEXT, Fault, FaultProxy, matching, refusal
from firebolt_cdc import config
from firebolt_cdc import engine as engine_module
from firebolt_cdc.core import Writers
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import (
    CdcError,
    ConflictError,
    EngineRejectedError,
    PermanentError,
    TimedOutError,
    TimeShortError,
    TransientError,
)
from standin import StandIn
from standin.server import Reply
from support import Rows

IN_THE_ENGINE = (Fault.ABORT, Fault.LOSE, Fault.RESTART, Fault.REFUSE, Fault.CUT_BEFORE, Fault.CUT_AFTER)
WRITES = ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with StandIn(None, credentials={"me": "s3cr3t-value"}) as running:
        yield running


@pytest.fixture
def proxy(standin: StandIn) -> Iterator[FaultProxy]:
    with FaultProxy(standin) as running:
        yield running
        assert running.broken == []


@pytest.fixture
def rows(standin: StandIn) -> Iterator[Callable[[], list[int]]]:
    """What another connection sees in the table `t`, which is new for each test."""
    sql = Rows(standin.url)
    sql("DROP TABLE IF EXISTS t")
    sql("CREATE TABLE t (a INT NULL)")
    yield lambda: sorted(r[0] for r in sql("SELECT a FROM t"))
    sql.close()


@pytest.fixture
def make(proxy: FaultProxy) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def engine(seconds: float = 30.0, **settings: Any) -> Engine:
        firebolt = config.Firebolt(**{"database": "firebolt", "core_url": proxy.url, **settings})
        made.append(Engine(firebolt, Deadline(seconds)))
        return made[-1]

    yield engine
    for one in made:
        one.close()


def write(engine: Engine) -> None:
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
        for sql in WRITES:
            tx.execute(sql)
        tx.commit()


def failure(action: Callable[[], object]) -> CdcError:
    with pytest.raises(CdcError) as caught:
        action()
    return caught.value


def test_a_transaction_commits_all_or_nothing(make: Callable[..., Engine], rows: Callable[[], list[int]]) -> None:
    engine = make()
    write(engine)
    assert rows() == [1, 2]

    def give_up() -> None:
        with engine.transaction() as tx:
            tx.begin("SELECT 1")
            tx.execute("INSERT INTO t VALUES (3)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
        tx.execute("INSERT INTO t VALUES (4)")
    assert rows() == [1, 2]


@pytest.mark.parametrize("fault", [Fault.SWALLOW_BEGIN, Fault.HTTP_500, Fault.HTTP_401, Fault.HTTP_502, Fault.JUNK])
def test_a_swallowed_begin_writes_nothing(
    proxy: FaultProxy, make: Callable[..., Engine], rows: Callable[[], list[int]], fault: Fault
) -> None:
    proxy.inject(fault, when=matching("BEGIN"))
    engine = make()
    error = failure(lambda: write(engine))
    assert isinstance(error, ConflictError)
    assert rows() == []
    write(engine)
    assert rows() == [1, 2]


@pytest.mark.parametrize("fault", [Fault.RESET_SESSION, Fault.FORGET_SESSION])
@pytest.mark.parametrize("statement", ["BEGIN", "SELECT 1", WRITES[0], WRITES[1]])
def test_a_session_reset_in_mid_transaction_writes_nothing(
    proxy: FaultProxy, make: Callable[..., Engine], rows: Callable[[], list[int]], fault: Fault, statement: str
) -> None:
    proxy.inject(fault, when=matching(statement))
    engine = make()
    assert isinstance(failure(lambda: write(engine)), ConflictError)
    assert rows() == []
    write(engine)
    assert rows() == [1, 2]


def test_a_transaction_that_the_session_forgot_is_rolled_back(
    standin: StandIn, proxy: FaultProxy, make: Callable[..., Engine], rows: Callable[[], list[int]]
) -> None:
    def in_progress() -> set[str]:
        return {t["begin_lsn"] for t in standin.engine.transaction_rows() if t["status"] == "IN-PROGRESS"}

    before = in_progress()
    proxy.inject(Fault.FORGET_SESSION, when=matching(WRITES[0]))
    failure(lambda: write(make()))
    assert in_progress() == before
    assert rows() == []


@pytest.mark.parametrize("fault", IN_THE_ENGINE)
@pytest.mark.parametrize("statement", WRITES)
def test_a_transaction_lost_in_the_engine_writes_nothing(
    proxy: FaultProxy, make: Callable[..., Engine], rows: Callable[[], list[int]], fault: Fault, statement: str
) -> None:
    proxy.inject(fault, when=matching(statement))
    engine = make()
    assert isinstance(failure(lambda: write(engine)), (ConflictError, TransientError))
    assert rows() == []
    write(engine)
    assert rows() == [1, 2]


@pytest.mark.parametrize("status", [200, 400, 409, 500])
def test_a_conflict_is_known_in_every_http_form_and_leaves_no_dead_transaction(
    proxy: FaultProxy, make: Callable[..., Engine], rows: Callable[[], list[int]], status: int
) -> None:
    proxy.conflict_status = status
    engine = make()
    write(engine)
    proxy.inject(Fault.CONFLICT, when=matching("COMMIT"))
    assert isinstance(failure(lambda: write(engine)), ConflictError)
    assert rows() == [1, 2]
    before = len(proxy.calls)
    write(engine)
    dead = proxy.calls[before - 2].transaction_id
    assert dead is not None
    assert dead not in {call.transaction_id for call in proxy.calls[before:]}
    assert rows() == [1, 1, 2, 2]


def test_another_writer_on_a_core_is_a_wait(proxy: FaultProxy, make: Callable[..., Engine]) -> None:
    proxy.inject(Fault.SINGLE_WRITER, when=matching(WRITES[0]))
    assert isinstance(failure(lambda: write(make())), ConflictError)


def test_the_standins_own_refusal_of_a_second_writer_is_a_conflict() -> None:
    with StandIn(None, single_writer=True) as core:
        sql = Rows(core.url)
        sql("CREATE TABLE t (a INT NULL)")
        first, second = (
            Engine(config.Firebolt(database="firebolt", core_url=core.url), Deadline(20)) for _ in range(2)
        )
        with first.transaction() as tx:
            tx.begin("SELECT 1")
            tx.execute(WRITES[0])
            assert isinstance(failure(lambda: write(second)), ConflictError)
            tx.commit()
        write(second)
        assert sql.value("SELECT COUNT(*) FROM t") == 3
        for thing in (first, second, sql):
            thing.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.REFUSE, TransientError),
        (Fault.CUT_BEFORE, TransientError),
        (Fault.HTTP_401, EngineRejectedError),
        (Fault.HTTP_400, EngineRejectedError),
        (Fault.HTTP_409, ConflictError),
        (Fault.HTTP_500, EngineRejectedError),
        (Fault.HTTP_502, TransientError),
        (Fault.HTTP_503, TransientError),
        (Fault.JUNK, EngineRejectedError),
        (Fault.JUNK_AFTER, EngineRejectedError),
        (Fault.SINGLE_WRITER, ConflictError),
    ],
)
def test_every_error_of_a_statement_has_a_class(
    proxy: FaultProxy, make: Callable[..., Engine], fault: Fault, expected: type[CdcError]
) -> None:
    engine = make()
    assert engine.query("SELECT 1") == [[1]]
    proxy.inject(fault)
    error = failure(lambda: engine.query("SELECT 1"))
    assert type(error) is expected, error
    assert engine.query("SELECT 1") == [[1]], "on a new connection"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONFLICT_TEXT, ConflictError),
        ("Query of type 'DML Merge' cannot be retried", TransientError),
        ("current transaction is aborted, commands ignored until end of transaction block", TransientError),
        ("Line 1, Column 8: column x does not exist", EngineRejectedError),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 409, 500, 503])
def test_the_engines_words_decide_whatever_the_status(
    proxy: FaultProxy,
    make: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    expected: type[CdcError],
    status: int,
) -> None:
    monkeypatch.setattr(proxy, "handle", lambda *_: refusal(status, text))
    assert type(failure(lambda: make().query("SELECT 1"))) is expected


def test_a_closed_port_is_transient(make: Callable[..., Engine]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert type(failure(lambda: make(core_url=f"http://127.0.0.1:{port}").query("SELECT 1"))) is TransientError
    assert type(failure(lambda: write(make(core_url=f"http://127.0.0.1:{port}")))) is TransientError


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT 1", WRITES[1], "COMMIT"])
def test_a_server_that_never_answers_ends_within_the_deadline(
    proxy: FaultProxy,
    make: Callable[..., Engine],
    rows: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    real, first = engine_module._run, statement if statement != "BEGIN" else "SELECT 1"  # which begins, for the SDK

    def run(connection: Any, sql: str, parameters: Any, deadline: Deadline) -> Any:
        if sql == first:
            deadline._end = time.monotonic() + engine_module.RESERVE_SECONDS + 0.5
        return real(connection, sql, parameters, deadline)

    monkeypatch.setattr(engine_module, "_run", run)
    proxy.inject(Fault.HANG_BEFORE, when=matching(statement))
    began = time.monotonic()
    error = failure(lambda: write(make()))
    assert type(error) is TimedOutError
    assert time.monotonic() - began < proxy.hang_seconds / 2
    assert rows() == []


def test_a_lost_rollback_cannot_hang(
    proxy: FaultProxy, make: Callable[..., Engine], rows: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "ROLLBACK_SECONDS", 0.3)
    proxy.inject(Fault.HTTP_400, when=matching(WRITES[1]))
    proxy.inject(Fault.HANG_BEFORE, when=matching("ROLLBACK"))
    engine = make()
    began = time.monotonic()
    assert type(failure(lambda: write(engine))) is EngineRejectedError
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
    proxy.decide = lambda call: Fault.HANG_BEFORE if call.text == "ROLLBACK" else None
    engine.close()
    assert time.monotonic() - began < proxy.hang_seconds / 2
    assert rows() == []


@pytest.mark.parametrize(
    ("fault", "opened"),
    [
        (None, 1),
        (Fault.HTTP_500, 2),
        (Fault.CUT_BEFORE, 2),
        (Fault.CUT_AFTER, 2),
        (Fault.JUNK, 2),
        (Fault.LOSE, 2),
    ],
)
def test_after_a_transaction_that_only_read_the_connection_is_kept_if_the_engine_knows_of_its_end(
    proxy: FaultProxy,
    make: Callable[..., Engine],
    rows: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault | None,
    opened: int,
) -> None:
    connected = Mock(side_effect=engine_module.connect)
    monkeypatch.setattr(engine_module, "connect", connected)
    if fault is not None:
        proxy.inject(fault, when=matching("ROLLBACK"))
    engine = make()
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
        first = tx.id
    write(engine)
    assert rows() == [1, 2]
    assert connected.call_count == opened
    assert [call.transaction_id for call in proxy.calls if call.text == "ROLLBACK"] == [first]
    assert first not in [call.transaction_id for call in proxy.calls[3:]], "nothing of it is in the next one"


def test_a_connection_that_still_names_an_ended_transaction_is_not_kept(
    standin: StandIn, make: Callable[..., Engine], rows: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_headers(method: str, target: str, headers: Any, body: bytes) -> Reply:
        reply = answer(method, target, headers, body)
        return Reply(reply.status, reply.body) if body == b"ROLLBACK" else reply

    answer = standin.answer
    monkeypatch.setattr(standin, "answer", without_headers)
    engine = make()
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
    write(engine)
    assert rows() == [1, 2]


@pytest.mark.parametrize(("fault", "forgotten"), [(None, 1), (Fault.CUT_BEFORE, 0)])
def test_a_writers_note_stays_while_its_transaction_may_be_open(
    proxy: FaultProxy, fault: Fault | None, forgotten: int
) -> None:
    if fault is not None:
        proxy.inject(fault, when=matching("ROLLBACK"))
    writers = Mock(spec=Writers)
    engine = Engine(config.Firebolt(database="firebolt", core_url=proxy.url), Deadline(30.0), writers=writers)
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
    engine.close()
    assert writers.note.call_count == 1
    assert writers.forget.call_count == forgotten


def test_without_time_no_statement_is_sent(proxy: FaultProxy, make: Callable[..., Engine]) -> None:
    engine = make(seconds=1.0)
    assert type(failure(lambda: engine.query("SELECT 1"))) is TimeShortError
    assert type(failure(lambda: write(engine))) is TimeShortError
    assert proxy.calls == []


# ------------------------------------------------------------ service account


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK derives `id.…` from `api.…`; both names lead here, as /etc/hosts would do it."""
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in ("api.localhost", "id.localhost") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    _firebolt_cache.clear()


@pytest.fixture
def secret(aws: str) -> Iterator[Callable[..., str]]:
    client = boto3.client("secretsmanager")
    made: list[str] = []

    def put(value: str | bytes | None) -> str:
        content = (
            {} if value is None else {"SecretString": value} if isinstance(value, str) else {"SecretBinary": value}
        )
        made.append(client.create_secret(Name=f"firebolt-{time.monotonic_ns()}", **content)["ARN"])
        return made[-1]

    yield put
    for arn in made:
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


Account = Callable[..., Engine]
GOOD = '{"client_id": "me", "client_secret": "s3cr3t-value"}'
JUNK = (b"", b"<html>", b"[]", b"{}", b'{"error": "x", "message": "no"}', b'{"access_token": "t"}')


@pytest.fixture
def account(proxy: FaultProxy, make: Callable[..., Engine], secret: Callable[..., str], resolves: None) -> Account:
    """An engine by service account; its secret's text may be given."""

    def engine(
        text: str | bytes | None = '{"client_id": "me", "client_secret": "s3cr3t-value"}', **more: Any
    ) -> Engine:
        port = proxy.url.rsplit(":", 1)[1]
        settings = {"core_url": None, "account_name": "local", "engine_name": "standin", "secret_arn": secret(text)}
        settings |= {"source_location": "source", "staging_location": "staging"}
        return make(**{**settings, "api_endpoint": f"http://api.localhost:{port}", **more})

    return engine


def test_the_service_account_works_end_to_end(
    account: Account, rows: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/none")
    engine = account()
    write(engine)
    assert rows() == [1, 2]
    assert engine.query("SELECT COUNT(*) FROM t") == [[2]]
    assert engine.is_running()


@pytest.mark.parametrize(
    ("text", "expected", "says"),
    [
        ('{"client_id": "me", "client_secret": "wr0ng-value"}', TransientError, "check the Firebolt credentials"),
        ('{"client_id": "you", "client_secret": "s3cr3t-value"}', TransientError, "check the Firebolt credentials"),
        ('{"client_id": "me"}', PermanentError, "is not a JSON object with client_id and client_secret"),
        ('{"client_id": null, "client_secret": "s3cr3t-value"}', PermanentError, "is not a JSON object with client_id"),
        ("[" * 100_000, PermanentError, "is not a JSON object with client_id and client_secret"),
        ('["s3cr3t-value"]', PermanentError, "is not a JSON object with client_id and client_secret"),
        ("s3cr3t-value", PermanentError, "is not a JSON object with client_id and client_secret"),
        ("null", PermanentError, "is not a JSON object with client_id and client_secret"),
        (b"s3cr3t-value", PermanentError, "is binary"),
        (None, TransientError, "has a value been put into it?"),
    ],
)
def test_a_wrong_secret_says_so_without_its_content(
    account: Account, text: str | bytes | None, expected: type[CdcError], says: str
) -> None:
    error = failure(lambda: account(text).query("SELECT 1"))
    assert type(error) is expected, error
    assert says in str(error)
    assert not re.search("s3cr3t|wr0ng", str(error))


def test_an_unknown_account_or_engine_says_so(account: Account) -> None:
    assert "nobody" in str(failure(lambda: account(account_name="nobody").query("SELECT 1")))
    assert "no_engine" in str(failure(lambda: account(engine_name="no_engine").query("SELECT 1")))


def test_an_expired_token_is_renewed(account: Account, standin: StandIn, rows: Callable[[], list[int]]) -> None:
    engine = account()
    assert engine.query("SELECT 1") == [[1]]
    standin._tokens.clear()
    assert engine.query("SELECT 1") == [[1]]
    write(engine)
    assert rows() == [1, 2]


@pytest.mark.parametrize("body", JUNK)
@pytest.mark.parametrize("status", [200, 500])
def test_junk_at_the_token_endpoint_is_transient(
    account: Account, standin: StandIn, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    reply = refusal(status, "")
    monkeypatch.setattr(standin, "_token", lambda _: type(reply)(status, body, {}))
    error = failure(lambda: account().query("SELECT 1"))
    assert isinstance(error, TransientError), error
    assert "s3cr3t" not in str(error)


@pytest.mark.parametrize("where", ["/oauth/token", "/web/v3", "USE DATABASE", "USE ENGINE"])
def test_a_handshake_that_never_answers_ends_within_the_deadline(
    account: Account, standin: StandIn, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real, hanging, over = standin.answer, threading.Event(), threading.Event()

    def hang(method: str, target: str, headers: Any, body: bytes) -> Any:
        if where in target or where in body.decode():
            hanging.set()
            over.wait(60)
        return real(method, target, headers, body)

    monkeypatch.setattr(standin, "answer", hang)
    began = time.monotonic()
    engine = account()
    engine._deadline = Deadline(engine_module.RESERVE_SECONDS + 3.0)
    error = failure(lambda: engine.query("SELECT 1"))
    seconds = time.monotonic() - began
    over.set()
    assert isinstance(error, TransientError)
    assert hanging.is_set()
    assert seconds < 30


def test_the_sdk_would_hang_or_write_without_these_guards(proxy: FaultProxy, rows: Callable[[], list[int]]) -> None:
    """The traps are real: the bare SDK falls into them."""
    from firebolt.client.auth import FireboltCore
    from firebolt.db import connect

    proxy.inject(Fault.SWALLOW_BEGIN, when=matching("BEGIN"))
    with connect(auth=FireboltCore(), url=proxy.url, database="firebolt", autocommit=False) as bare:
        bare.cursor().execute(WRITES[0])
        bare._reset_transaction_state()
    assert rows() == [1], "written without a transaction"
    with connect(auth=FireboltCore(), url=proxy.url, database="firebolt", autocommit=True) as bare:
        bare.cursor().execute("BEGIN")
        bare.cursor().execute(WRITES[1])
    assert rows() == [1, 2], "autocommit ignores BEGIN"
    with (
        pytest.raises(httpx.ConnectError),
        connect(auth=FireboltCore(), url="http://127.0.0.1:9", database="firebolt") as bare,
    ):
        bare.cursor().execute("SELECT 1")
    assert json.loads(refusal(400, "x").body)["errors"]
