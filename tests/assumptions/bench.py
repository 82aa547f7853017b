"""The engine that is asked: its connections, scratch tables that are dropped at the end, and what an error looked like.

The SDK is used directly, with the traps of `firebolt_cdc.engine` in mind: a transaction begins with a read, and is one
only if the SDK holds an id after it; a connection that saw an error forgets its transaction before it is closed.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from firebolt.client.auth import Auth, ClientCredentials, FireboltCore
from firebolt.db import connect
from firebolt.utils.exception import FireboltStructuredError

from firebolt_cdc import migrations
from firebolt_cdc.errors import ENGINE_ERRORS, CdcError, ConflictError, engine_error

STATEMENT_SECONDS = 300.0
"""A stopped engine starts in this time."""


class UnaskableError(Exception):
    """The question could not be put: says nothing of the assumption."""


@dataclass(frozen=True)
class Failure:
    """An error of the engine, as a client sees it."""

    error: CdcError
    text: str
    status: int
    code: str | None

    def __str__(self) -> str:
        code = f", code {self.code}" if self.code else ""
        return f"HTTP {self.status}{code}, {type(self.error).__name__}: {self.text}"


class _Watched(Auth):
    """An authentication that limits every request's time and keeps the last answer's HTTP status."""

    status = 0

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the SDK's requests."""
        flow = super().sync_auth_flow(request)
        with suppress(StopIteration):
            request = next(flow)
            while True:
                request.extensions = {
                    **request.extensions,
                    "timeout": dict.fromkeys(("connect", "read", "write", "pool"), STATEMENT_SECONDS),
                }
                response = yield request
                self.status = response.status_code
                request = flow.send(response)


class Core(_Watched, FireboltCore):
    """Firebolt Core, or the stand-in: nobody signs in."""


class ServiceAccount(_Watched, ClientCredentials):
    """A service account of managed Firebolt."""


class Session:
    """One connection; calling it runs a statement and gives its rows."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __call__(self, sql: str, parameters: Sequence[Any] = ()) -> list[list[Any]]:
        cursor = self._connection.cursor()
        cursor.execute(sql, list(parameters) or None, timeout_seconds=STATEMENT_SECONDS)
        return [list(row) for row in cursor.fetchall()] if cursor.description else []

    @property
    def id(self) -> str | None:
        """The transaction's id, as the SDK holds it."""
        return self._connection.create_transaction_params().get("transaction_id")

    def commit(self) -> None:
        """Commit."""
        self("COMMIT")

    def rollback(self) -> None:
        """Roll back."""
        self("ROLLBACK")

    def close(self) -> None:
        """Roll back what is open, as far as the engine listens, and forget it."""
        if self._connection.in_transaction:
            with suppress(*ENGINE_ERRORS):
                self.rollback()
        self._connection._reset_transaction_state()
        self._connection.close()


class Bench:
    """One engine under question. Not shared between threads."""

    def __init__(
        self,
        auth: Core | ServiceAccount,
        connection: dict[str, str],
        *,
        parquet_url: str | None = None,
        location: tuple[str, str] | None = None,
    ) -> None:
        self._auth = auth
        self._connection = connection
        self._sessions: list[Session] = []
        self._tables: list[str] = []
        self.prefix = f"assumption_{uuid.uuid4().hex[:8]}_"
        self.parquet_url = parquet_url
        self.location = location
        """A LOCATION's name, and the PATTERN that is one object's key below its URL."""

    @functools.cached_property
    def single(self) -> Session:
        """A connection on which each statement is a transaction of its own."""
        return Session(connect(auth=self._auth, autocommit=True, **self._connection))

    def session(self) -> Session:
        """A connection with an explicit transaction, which the first statement begins."""
        self._sessions.append(Session(connect(auth=self._auth, autocommit=False, **self._connection)))
        return self._sessions[-1]

    def begin(self) -> Session:
        """A transaction that has read, so that its snapshot is taken."""
        session = self.session()
        session("SELECT 1")
        if session.id is None:
            raise UnaskableError("BEGIN gave no transaction")
        return session

    def failure(self, run: Callable[..., object], *arguments: object) -> Failure | None:
        """Run something; how the engine refused it, None where it did not. No answer is no refusal, and is raised."""
        try:
            run(*arguments)
        except (httpx.TransportError, OSError):
            raise
        except ENGINE_ERRORS as error:
            return self.seen(error)
        return None

    def seen(self, error: Exception) -> Failure:
        """An error as the product classifies it."""
        answers = error.errors if isinstance(error, FireboltStructuredError) else []
        code = next((str(a["code"]) for a in answers if isinstance(a, dict) and a.get("code")), None)
        return Failure(engine_error(error, "assumption"), " ".join(str(error).split()), self._auth.status, code)

    def named(self, sql: str) -> str:
        """The product's SQL on scratch tables instead of the ledger's."""
        return re.sub(r"\bcdc_", self.prefix, sql)

    def create(self, sql: str) -> None:
        """Run a CREATE TABLE (or ALTER TABLE) of the product's, on scratch names."""
        self.single(self.forget_later(self.named(sql)))

    def forget_later(self, sql: str) -> str:
        """Note the table that a CREATE TABLE makes, to be dropped at the end."""
        if made := re.match(r'CREATE TABLE (?:IF NOT EXISTS )?"?(\w+)', sql):
            self._tables.append(made[1])
        return sql

    def table(self, columns: str, *rows: str) -> str:
        """A scratch table with rows; its name.

        Raises:
            UnaskableError: the engine refused it.
        """
        name = f"{self.prefix}t{len(self._tables)}"
        try:
            self.create(f"CREATE TABLE {name} {columns}")
            if rows:
                self.single(f"INSERT INTO {name} VALUES {', '.join(rows)}")
        except ENGINE_ERRORS as error:
            raise UnaskableError(f"a scratch table was refused: {self.seen(error)}") from error
        return name

    @functools.cached_property
    def ledger(self) -> str:
        """The ledger under scratch names; its prefix."""
        for migration in migrations.bundled():
            for statement in migration.statements:
                if statement.startswith(("CREATE TABLE", "ALTER TABLE")):
                    self.create(statement)
        return self.prefix

    @functools.cached_property
    def second_writer(self) -> Failure | None:
        """How a second write transaction fails while one is open; None where it does not."""
        tables = [self.table("(k INT)") for _ in range(2)]
        first, second = self.begin(), self.begin()
        first(f"INSERT INTO {tables[0]} VALUES (1)")
        failed = self.failure(second, f"INSERT INTO {tables[1]} VALUES (1)")
        second.close()
        first.rollback()
        return failed

    def two_writers(self) -> tuple[Session, Session]:
        """Two transactions, on an engine that lets both write.

        Raises:
            UnaskableError: it lets one write at a time.
        """
        if self.second_writer is not None:
            raise UnaskableError(f"one write transaction at a time: {self.second_writer}")
        return self.begin(), self.begin()

    def end_sessions(self) -> None:
        """Roll back and close what a question left open."""
        while self._sessions:
            self._sessions.pop().close()

    def drop(self) -> list[str]:
        """Drop the scratch tables and close; the tables that are left."""
        left = []
        for table in self._tables:
            try:
                self.single(f'DROP TABLE IF EXISTS "{table}"')
            except ENGINE_ERRORS:
                left.append(table)
        if "single" in vars(self):
            self.single.close()
        return left


def is_conflict(failure: Failure | None) -> bool:
    """Whether the product would take it for a lost commit race, and try again."""
    return failure is not None and isinstance(failure.error, ConflictError)
