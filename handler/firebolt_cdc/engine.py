"""The connection to Firebolt: transactions that cannot silently be none, and errors that have a class.

The SDK (1.19.1) has ways to lose a transaction and go on without it; each is closed here:

* With autocommit, `execute("BEGIN")` has no effect. Transactions use `autocommit=False`.
* Without autocommit the SDK sends BEGIN before the first statement and ignores BEGIN's HTTP error; the statement
  then runs, and commits, on its own. So a transaction's first statement is a read, and it is a transaction only
  if the SDK holds a transaction id after it.
* A `Firebolt-Reset-Session` header drops the id in mid-transaction, and the next statement would begin another.
  So the same id is required before and after each statement and before COMMIT; the ROLLBACK names the lost one.
* Reads wait forever, and `timeout_seconds` does not reach the SDK's own requests (BEGIN, token, USE ENGINE). Every
  request passes through the SDK's authentication, which gives it a time limit below what is left of the invocation.
* After a failed COMMIT the SDK keeps the dead id. A connection that saw any error is dropped, never reused.
* `close()` sends ROLLBACK without a time limit. The SDK is told to forget its transaction first.
* The token cache writes below HOME, which Lambda does not have. It is off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import httpx
from firebolt.client.auth import Auth, ClientCredentials, FireboltCore
from firebolt.db import Connection, connect

from firebolt_cdc import __version__, aws, config
from firebolt_cdc.core import GRACE_SECONDS, Writers
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.errors import (
    ENGINE_ERRORS,
    CdcError,
    ConflictError,
    TimeShortError,
    TransientError,
    engine_error,
    redact,
)
from firebolt_cdc.telemetry import logger

RESERVE_SECONDS = 3.0
"""Kept back from each statement's time limit, for giving turns back before Lambda ends the process."""
ROLLBACK_SECONDS = 5.0
ASLEEP = frozenset({"STOPPED", "STOPPING", "DRAINING"})
"""States in which an engine does no work and is not woken for clean-up (Firebolt, "Engine fundamentals")."""

Row = Sequence[Any]


class Transaction:
    """One explicit transaction. Made by `Engine.transaction`; the first statement must be a read."""

    def __init__(self, connection: Connection, deadline: Deadline, writers: Writers | None = None) -> None:
        self._connection = connection
        self._deadline = deadline
        self._writers = writers
        self._id: str | None = None
        self._noted: str | None = None
        self._limit: Deadline | None = None

    @contextlib.contextmanager
    def keeping_back(self, seconds: float) -> Iterator[None]:
        """Cut statements off so much earlier than the invocation's end needs (a quarter of what is left at most)."""
        left = self._deadline.remaining_seconds()
        self._limit = Deadline(left - min(seconds, left / 4))
        try:
            yield
        finally:
            self._limit = None

    @property
    def id(self) -> str | None:
        """The engine's transaction id, once the first read has been answered."""
        return self._id

    def begin(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run the first statement, a read, and make sure that it ran inside a transaction.

        Raises:
            ConflictError: it did not: BEGIN was refused or swallowed. Nothing was written.
        """
        rows = _run(self._connection, sql, parameters, self._deadline)
        self._id = self._current_id()
        if self._id is None:
            raise ConflictError("the engine did not begin a transaction (a read ran without one); nothing was written")
        if self._writers is not None:
            self._noted = self._id
            self._writers.note(self._id, self._deadline.remaining_seconds())
        return rows

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement inside the transaction and return its rows (none for DML).

        Raises:
            ConflictError: the transaction was lost; nothing that it wrote is there.
            CdcError: whatever class the engine's answer has.
        """
        self._require_same("before a statement")
        rows = _run(self._connection, sql, parameters, self._limit or self._deadline)
        self._require_same("after a statement")
        return rows

    def commit(self) -> None:
        """Commit. After an error the outcome is unknown to the caller, who must look at `cdc_applied`."""
        self._require_same("before COMMIT")
        _run(self._connection, "COMMIT", (), self._deadline)
        self._id = None

    def restore(self) -> None:
        """Give the connection the id back that a reset session took from it, so that ROLLBACK ends what is open."""
        if self._id is not None:
            self._connection._transaction_id = self._id

    def settle(self) -> None:
        """Take the writer's note away: the transaction is over."""
        if self._writers is not None and self._noted is not None:
            self._writers.forget(self._noted)

    def leave_note(self) -> None:
        """Name a transaction that could not be ended, due at once: whoever it keeps from writing can end it then."""
        lost = self._current_id()
        if self._writers is not None and self._noted is None and lost is not None:
            self._writers.note(lost, -GRACE_SECONDS)

    def _current_id(self) -> str | None:
        return self._connection.create_transaction_params().get("transaction_id")

    def _require_same(self, when: str) -> None:
        if self._id is None or self._current_id() != self._id:
            raise ConflictError(f"the transaction was lost {when} (the engine reset the session); it was given up")


class _Limited(Auth):
    """An authentication that also gives each request of the SDK a time limit."""

    deadline: Deadline

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the SDK's requests, the token's included, each with the time that is left at most."""
        flow = super().sync_auth_flow(request)
        with contextlib.suppress(StopIteration):
            request = next(flow)
            while True:
                left = max(0.001, self.deadline.remaining_seconds() - RESERVE_SECONDS)
                wanted = request.extensions.get("timeout", {})
                limits = {name: min(left, wanted.get(name) or left) for name in ("connect", "read", "write", "pool")}
                request.extensions = {**request.extensions, "timeout": limits}
                request = flow.send((yield request))


class _Core(_Limited, FireboltCore):
    """Firebolt Core: nobody signs in."""


class _ServiceAccount(_Limited, ClientCredentials):
    """A service account of managed Firebolt."""


class Engine:
    """One Firebolt engine, for one invocation. Not shared between threads."""

    def __init__(self, settings: config.Firebolt, deadline: Deadline, writers: Writers | None = None) -> None:
        self._settings = settings
        self._writers = writers
        self._deadline = deadline
        self._auth: Auth | None = None
        self._idle: Connection | None = None
        self._single: Connection | None = None

    @classmethod
    def of(cls, settings: config.Config, deadline: Deadline) -> Engine:
        """The engine of a pipeline; a Firebolt Core gets its writers' notes."""
        core = settings.firebolt.core_url is not None
        return cls(settings.firebolt, deadline, writers=Writers(aws.client("s3"), settings) if core else None)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement on its own (autocommit) and return its rows.

        For reads, and for statements that Firebolt does not allow in a transaction.
        """
        connection = self._single or self._connect(autocommit=True)
        self._single = None
        try:
            rows = _run(connection, sql, parameters, self._deadline)
        except BaseException:
            _drop(connection)
            raise
        self._single = connection
        return rows

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that rolls back unless `commit` was called; after any error the connection is dropped.

        It is kept for the next transaction only if the SDK, told of the end, holds no transaction's id any more.
        """
        connection = self._idle or self._connect(autocommit=False)
        self._idle = None
        transaction = Transaction(connection, self._deadline, self._writers)
        try:
            yield transaction
        except Exception as error:
            transaction.restore()
            if _rollback(connection):
                transaction.settle()
            else:
                self._leave_note(transaction)
            _drop(connection)
            if self._writers is not None and isinstance(error, ConflictError):
                self._end_dead_writers(self._writers)
            raise
        except BaseException:
            _drop(connection)
            raise
        over = _rollback(connection)
        if over:
            transaction.settle()
        else:
            self._leave_note(transaction)
        if over and not connection.in_transaction:
            self._idle = connection
        else:
            _drop(connection)

    def _leave_note(self, transaction: Transaction) -> None:
        """What goes wrong here must not stand in for why the transaction failed."""
        try:
            transaction.leave_note()
        except CdcError as error:
            logger.warning("an open transaction has no note; the engine ends it when it is idle", error=str(error))

    def _end_dead_writers(self, writers: Writers) -> None:
        """Clear the way for the next try; what goes wrong here must not stand in for why this one failed."""
        try:
            writers.end_dead()
        except CdcError as error:
            logger.warning("dead writers could not be looked for", error=str(error))

    def close(self) -> None:
        """Drop the idle connections."""
        for connection in (self._idle, self._single):
            if connection is not None:
                _drop(connection)
        self._idle = self._single = None

    def is_running(self) -> bool:
        """Whether the engine runs, asked without starting it (the system engine answers). A Core always runs."""
        if self._settings.core_url is not None:
            return True
        connection = self._connect(autocommit=True, system=True)
        try:
            rows = _run(
                connection,
                "SELECT status FROM information_schema.engines WHERE engine_name = ?",
                [self._settings.engine_name],
                self._deadline,
            )
        finally:
            _drop(connection)
        if not rows:
            raise TransientError(
                f"the engine {self._settings.engine_name} is not in information_schema.engines: check its name, and "
                "that the service account may use it"
            )
        return str(rows[0][0]).upper() not in ASLEEP

    def _connect(self, *, autocommit: bool, system: bool = False) -> Connection:
        settings = self._settings
        clients = {"user_clients": [("firebolt-cdc", __version__)]}
        try:
            if settings.core_url is not None:
                auth = _Core()
                auth.deadline = self._deadline
                return connect(
                    auth=auth,
                    url=settings.core_url,
                    database=settings.database,
                    autocommit=autocommit,
                    additional_parameters=clients,
                )
            return connect(
                auth=self._service_account(),
                account_name=settings.account_name,
                database=None if system else settings.database,
                engine_name=None if system else settings.engine_name,
                api_endpoint=settings.api_endpoint,
                autocommit=autocommit,
                disable_cache=system,
                additional_parameters=clients,
            )
        except ENGINE_ERRORS as error:
            raise engine_error(error, "connecting to Firebolt") from error

    def _service_account(self) -> Auth:
        if self._auth is None:
            assert self._settings.secret_arn is not None, "the configuration requires it without core_url"
            account = config.secret(self._settings.secret_arn)
            auth = _ServiceAccount(account["client_id"], account["client_secret"], use_token_cache=False)
            auth.deadline = self._deadline
            self._auth = auth
        return self._auth


def _run(connection: Connection, sql: str, parameters: Sequence[Any], deadline: Deadline) -> list[Row]:
    seconds = deadline.remaining_seconds() - RESERVE_SECONDS
    if seconds <= 0:
        raise TimeShortError("too little is left of this invocation for another statement")
    try:
        cursor = connection.cursor()
        cursor.execute(sql, list(parameters) or None, timeout_seconds=seconds)
        rows = list(cursor.fetchall()) if cursor.description else []
        cursor.close()
    except CdcError:
        raise
    except ENGINE_ERRORS as error:
        raise engine_error(error, f"statement {' '.join(sql.split())[:60]!r}") from error
    return rows


def _rollback(connection: Connection) -> bool:
    """Tell the engine that the open transaction, if there is one, is over; False if it did not listen.

    A ROLLBACK that gets lost costs nothing: without a COMMIT nothing of the transaction is ever seen.
    """
    if connection.in_transaction:
        try:
            connection.cursor().execute("ROLLBACK", timeout_seconds=ROLLBACK_SECONDS)
        except ENGINE_ERRORS as error:
            logger.warning("a ROLLBACK got lost; nothing of its transaction is ever seen", error=redact(str(error)))
            return False
    return True


def _drop(connection: Connection) -> None:
    connection._reset_transaction_state()
    connection.close()
