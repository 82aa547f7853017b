"""Firebolt's HTTP protocol, for the unmodified firebolt-sdk: Firebolt Core by URL, or a service account.

``POST /?database=..&output_format=JSON_Compact[&transaction_id=..]`` with the SQL as body; errors as
``{"errors": [...]}``; a transaction's id travels in ``Firebolt-Update-Parameters`` and back as a parameter.
The service-account way adds ``/oauth/token``, ``/web/v3/account/<name>/engineUrl``, USE DATABASE and USE ENGINE.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sqlglot.tokenizer_core import TokenType

from . import dialect
from . import statements as st
from .engine import Engine, Options, Transaction
from .errors import CutConnection, SqlError
from .executor import Executor, Result
from .s3 import S3

_KNOWN_PARAMETERS = {
    "database", "engine", "account_id", "output_format", "transaction_id", "transaction_sequence_id",
    "query_parameters", "async",
}  # fmt: skip
#: called with the SQL text and the transaction's id (None outside): may raise SqlError or CutConnection, or wait
Hook = Callable[[str, str | None], None]


@dataclass
class Reply:
    """An HTTP answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class StandIn:
    """A stand-in engine listening on 127.0.0.1; use as a context manager, or ``start`` and ``stop``.

    ``state`` is the directory of the data (None: in memory). ``before_statement`` and ``after_statement`` are hooks
    for faults; the second runs when the statement has had its effect and before its answer is sent.
    """

    def __init__(
        self,
        state: Path | str | None = None,
        *,
        s3_endpoint: str | None = None,
        port: int = 0,
        before_statement: Hook | None = None,
        after_statement: Hook | None = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.options = Options(**options)
        self.engine = Engine(Path(state) if state is not None else None, S3(s3_endpoint), self.options)
        self.before_statement = before_statement
        self.after_statement = after_statement
        self.verbose = verbose
        self._tokens: set[str] = set()
        self._server = _Server(("127.0.0.1", port), _handler_for(self))
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """For ``firebolt.db.connect(auth=FireboltCore(), url=...)``."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> StandIn:
        """Begins to answer, in a thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stops answering, rolls back what is open, closes the database."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._server.cut()
        self.engine.close()

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------ requests

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Reply:
        """The answer to one HTTP request."""
        parts = urlsplit(target)
        if parts.path == "/oauth/token":
            return self._token(dict(parse_qsl(body.decode())))
        bearer = headers.get("Authorization", "")
        if bearer and bearer.removeprefix("Bearer ") not in self._tokens:
            return Reply(401, b"unauthorized", {"Content-Type": "text/plain"})
        if match := re.fullmatch(r"/web/v3/account/([^/]+)/engineUrl", parts.path):
            if match[1] != self.options.account:
                return Reply(404, b"account not found", {"Content-Type": "text/plain"})
            host = headers.get("Host", f"127.0.0.1:{self.port}")
            return _json_reply({"engineUrl": f"http://{host}/query?account_id=01standin"})
        if method == "GET":
            return Reply(200, b"ok", {"Content-Type": "text/plain"})
        return self._statement(dict(parse_qsl(parts.query, keep_blank_values=True)), body.decode())

    def _token(self, form: dict[str, str]) -> Reply:
        known = self.options.credentials
        if known is not None and known.get(form.get("client_id", "")) != form.get("client_secret"):
            return Reply(401, b"unauthorized", {"Content-Type": "text/plain"})
        token = uuid.uuid4().hex
        self._tokens.add(token)
        return _json_reply({"access_token": token, "expires_in": 86400, "token_type": "Bearer"})

    def _statement(self, parameters: dict[str, str], sql: str) -> Reply:
        started, query_id = self.engine.options.clock(), str(uuid.uuid4())
        begun = time.monotonic()
        error: SqlError | None = None
        transaction = parameters.get("transaction_id")
        reply = Reply()
        try:
            if self.before_statement:
                self.before_statement(sql, transaction)
            reply = self._run(parameters, sql, query_id, begun)
        except SqlError as failure:
            error = failure
            reply = _error_reply(failure, query_id)
            if failure.code == "9" and self.options.forget_failed_commit:
                reply.headers["Firebolt-Remove-Parameters"] = "transaction_id,transaction_sequence_id"
        self._remember(parameters, sql, query_id, started, error)
        if self.verbose:
            outcome = f"{reply.status} {error}" if error else str(reply.status)
            took = (time.monotonic() - begun) * 1000
            print(f"{transaction or '-':20} {took:7.1f} ms {outcome} {' '.join(sql.split())[:200]}", file=sys.stderr)
        if self.after_statement:
            self.after_statement(sql, transaction)
        return reply

    def _remember(
        self, parameters: dict[str, str], sql: str, query_id: str, started: datetime, error: SqlError | None
    ) -> None:
        ended = self.engine.options.clock()
        row: dict[str, Any] = {
            "account_name": self.options.account,
            "user_name": "standin",
            "submitted_time": started,
            "start_time": started,
            "query_id": query_id,
            "request_id": query_id,
            "query_text": sql,
            "query_label": parameters.get("query_label"),
            "transaction_begin_lsn": parameters.get("transaction_id"),
            "retries": 0,
        }
        self.engine.history.append({**row, "status": "STARTED_EXECUTION"})
        micros = int((ended - started).total_seconds() * 1e6)
        status = "ENDED_SUCCESSFULLY"
        if error is not None:
            status = "PARSE_ERROR" if error.name == "Parse Error" else "EXECUTION_ERROR"
        message = str(error) if error else None
        self.engine.history.append(
            {**row, "status": status, "end_time": ended, "duration_us": micros, "error_message": message}
        )

    def _run(self, parameters: dict[str, str], sql: str, query_id: str, begun: float) -> Reply:
        settings = {k: v for k, v in parameters.items() if k not in _KNOWN_PARAMETERS}
        if unknown := settings.keys() - dialect.SETTINGS:
            raise SqlError(f"unknown setting {', '.join(sorted(unknown))}", name="Unsupported")
        if parameters.get("async"):
            raise SqlError("asynchronous queries are not part of the stand-in", name="Unsupported")
        database = parameters.get("database", self.options.database)
        if database != self.options.database:
            raise SqlError(f"Database '{database}' does not exist or not authorized")
        named = {p["name"]: p["value"] for p in json.loads(parameters.get("query_parameters", "[]"))}
        format_ = parameters.get("output_format", "JSON_Compact")
        if format_ not in ("JSON_Compact", "JSONLines_Compact"):
            raise SqlError(f"the stand-in does not write {format_}", name="Unsupported")
        transaction = parameters.get("transaction_id")
        tx = self.engine.find(transaction) if transaction else None
        try:
            statements = [st.parse_statement(text) for text in _split(sql)]
            settings |= dialect.split_settings(sql)[1]
        except SqlError:
            if tx is not None:
                with tx.lock:
                    self._check_open(tx)
                    tx.failed = True
            raise
        statement = statements[0]
        if len(statements) > 1 and not all(isinstance(s, st.Dml) and s.tree.key == "insert" for s in statements):
            raise SqlError("several statements in one request", name="Parse Error")
        if isinstance(statement, st.Begin | st.Commit | st.Rollback | st.Use):
            return self._control(statement, tx)
        if tx is not None:
            with tx.lock:
                result = self._run_in(tx, statements, settings, named)
            reply = _result_reply(result, query_id, begun, format_)
            reply.headers["Firebolt-Update-Parameters"] = (
                f"transaction_id={tx.id},transaction_sequence_id={tx.statements}"
            )
            return reply
        tx = self.engine.begin(explicit=False)
        try:
            result = self._run_in(tx, statements, settings, named)
            self.engine.commit(tx)
        except BaseException:
            self.engine.rollback(tx)
            raise
        return _result_reply(result, query_id, begun, format_)

    def _check_open(self, tx: Transaction) -> None:
        if not tx.failed:
            return
        self.engine.enter(tx)

    def _run_in(
        self, tx: Transaction, statements: list[st.Statement], settings: dict[str, str], named: dict[str, Any]
    ) -> Result | None:
        result = None
        try:
            for statement in statements:
                self.engine.enter(tx)
                result = Executor(self.engine, tx, settings, named).run(statement)
        except BaseException:
            tx.failed = True
            raise
        return result

    def _control(self, statement: st.Statement, tx: Transaction | None) -> Reply:
        reply = Reply()
        if isinstance(statement, st.Use):
            return self._use(statement)
        if isinstance(statement, st.Begin):
            if tx is not None:
                with tx.lock:
                    tx.failed = True
                raise SqlError("there is already a transaction in progress", name="Transaction Error")
            new = self.engine.begin(explicit=True)
            reply.headers["Firebolt-Update-Parameters"] = f"transaction_id={new.id},transaction_sequence_id=0"
            return reply
        if isinstance(statement, st.Rollback) and statement.begin_lsn is not None:
            other = self.engine.find(statement.begin_lsn)
            with other.lock:
                self.engine.rollback(other)
            if tx is other:
                reply.headers["Firebolt-Remove-Parameters"] = "transaction_id,transaction_sequence_id"
            return reply
        if tx is None:
            raise SqlError("there is no transaction in progress", name="Transaction Error")
        with tx.lock:
            if isinstance(statement, st.Rollback):
                self.engine.rollback(tx)
            else:
                tx.statements -= 1
                self.engine.enter(tx)
                self.engine.commit(tx)
        reply.headers["Firebolt-Remove-Parameters"] = "transaction_id,transaction_sequence_id"
        return reply

    def _use(self, statement: st.Use) -> Reply:
        if statement.kind == "DATABASE" and statement.name != self.options.database:
            raise SqlError(f"Database '{statement.name}' does not exist or not authorized")
        if statement.kind == "ENGINE" and statement.name != self.options.engine:
            raise SqlError(f"Engine '{statement.name}' does not exist or not authorized")
        return Reply(headers={"Firebolt-Update-Parameters": f"{statement.kind.lower()}={statement.name}"})


def _split(sql: str) -> list[str]:
    """The statements of a request (the SDK's bulk insert sends several)."""
    if ";" not in sql:
        return [sql]
    tokens = dialect.tokenize(sql)
    if not any(t.token_type == TokenType.SEMICOLON for t in tokens[:-1]):
        return [sql]
    text, parts, start = dialect._quote_file_columns(sql), [], 0
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            parts.append(text[start : token.start])
            start = token.end + 1
    parts.append(text[start:])
    return [p for p in parts if p.strip()]


def _json_reply(data: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(data).encode(), {"Content-Type": "application/json"})


def _error_reply(error: SqlError, query_id: str) -> Reply:
    item = {
        "code": error.code,
        "name": error.name,
        "severity": "ERROR",
        "description": error.description,
        "location": {"failingLine": error.line, "startOffset": error.offset, "endOffset": error.offset},
    }
    query = {"query_id": query_id, "request_id": query_id, "query_label": None}
    body: dict[str, Any] = {"errors": [item], "query": query, "statistics": {"elapsed": 0.0}}
    if error.http_status == 200:
        body |= {"meta": [], "data": [], "rows": 0}
    return _json_reply(body, error.http_status)


def _result_reply(result: Result | None, query_id: str, begun: float, format_: str) -> Reply:
    if result is None:
        return Reply()
    meta = [
        {"name": n, "type": t.wire + (" null" if format_ == "JSON_Compact" else "")}
        for n, t in zip(result.names, result.types, strict=True)
    ]
    query = {"query_id": query_id, "request_id": query_id, "query_label": None}
    statistics = {"elapsed": round(time.monotonic() - begun, 6), "rows_read": 0, "bytes_read": 0}
    if format_ == "JSON_Compact":
        body = {"query": query, "meta": meta, "data": result.rows, "rows": len(result.rows), "statistics": statistics}
        return _json_reply(body)
    lines = [
        {"message_type": "START", "result_columns": meta, **query},
        {"message_type": "DATA", "data": result.rows},
        {"message_type": "FINISH_SUCCESSFULLY", "statistics": statistics},
    ]
    return Reply(200, "\n".join(json.dumps(x) for x in lines).encode(), {"Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Closes the connections that clients keep open."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not an error of the server's."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            super().handle_error(request, client_address)


def _handler_for(owner: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 1 << 16

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                reply = owner.answer(self.command, self.path, self.headers, body)
            except CutConnection:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            except Exception as error:  # noqa: BLE001 - a fault of the stand-in itself is told, with its place
                traceback.print_exc()
                text = f"the stand-in failed: {type(error).__name__}: {error}"
                reply = _error_reply(SqlError(text, name="Internal Error", http_status=500), "")
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            """One line per statement is written by StandIn instead."""

    return Handler
