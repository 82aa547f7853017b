"""A stand-in per test, and one S3 server for all tests of the directory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from firebolt.client.auth import FireboltCore
from firebolt.db import connect
from moto.server import ThreadedMotoServer

from standin import StandIn, dialect
from standin.catalog import Table


class Session:
    """One SDK connection; calling it executes SQL and gives the rows (an empty list where there are none)."""

    def __init__(self, url: str, autocommit: bool = True) -> None:
        self.connection = connect(auth=FireboltCore(), url=url, database="firebolt", autocommit=autocommit)
        self.cursor = self.connection.cursor()

    def __call__(self, sql: str, parameters: list[Any] | None = None) -> list[list[Any]]:
        self.cursor.execute(sql, parameters)
        return self.cursor.fetchall() if self.cursor.description else []

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    @property
    def id(self) -> str | None:
        return self.connection._transaction_id


@pytest.fixture
def make_engine() -> Iterator[Callable[..., StandIn]]:
    """Starts stand-ins with the given options; all are stopped after the test."""
    with ExitStack() as stack:
        yield lambda state=None, **options: stack.enter_context(StandIn(state, **options))


@pytest.fixture
def connect_to(make_engine: Callable[..., StandIn]) -> Iterator[Callable[..., Session]]:
    """Opens SDK connections to a stand-in; with ``False`` their transactions are explicit."""
    opened: list[Session] = []

    def open_session(engine: StandIn, autocommit: bool = True) -> Session:
        opened.append(Session(engine.url, autocommit))
        return opened[-1]

    yield open_session
    for session in opened:
        session.connection.close()


@pytest.fixture(scope="session")
def running() -> Iterator[StandIn]:
    with StandIn() as engine:
        yield engine


@pytest.fixture(scope="session")
def sessions() -> Iterator[list[Session]]:
    """Connections to ``running``, kept because opening one is slow; the first one commits each statement."""
    opened: list[Session] = []
    yield opened
    for session in opened:
        session.connection.close()


@pytest.fixture
def engine(running: StandIn, sessions: list[Session]) -> Iterator[StandIn]:
    """A stand-in with default options and nothing in it."""
    yield running
    for transaction in list(running.engine._open.values()):
        running.engine.rollback(transaction)
    for session in sessions:
        session.connection._reset_transaction_state()
    for name in [dialect.decode(n) for n, r in running.engine.relations.items() if isinstance(r, Table)]:
        sessions[0](f'DROP TABLE "{name}" CASCADE')
    for name in [dialect.decode(n) for n in running.engine.relations]:
        sessions[0](f'DROP VIEW IF EXISTS "{name}" CASCADE')


@pytest.fixture
def sql(engine: StandIn, sessions: list[Session]) -> Session:
    """A session that commits each statement."""
    if not sessions:
        sessions.append(Session(engine.url))
    sessions[0].cursor = sessions[0].connection.cursor()
    return sessions[0]


@pytest.fixture
def begin(engine: StandIn, sql: Session, sessions: list[Session]) -> Callable[[], Session]:
    """Opens sessions with explicit transactions."""
    free = sessions[1:]

    def open_session() -> Session:
        if not free:
            sessions.append(Session(engine.url, autocommit=False))
            return sessions[-1]
        return free.pop()

    return open_session


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3(s3_url: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3_url, **keys)
    client.create_bucket(Bucket="source")
    return client


@pytest.fixture(scope="session")
def put(s3: Any) -> Callable[..., None]:
    """Writes columns as a Parquet object of bucket ``source``."""

    def write(key: str, columns: dict[str, Any] | pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), buffer)
        s3.put_object(Bucket="source", Key=key, Body=buffer.getvalue())

    return write
