"""A fault-injecting HTTP proxy between the unmodified firebolt-sdk and the stand-in.

    with StandIn(...) as engine, FaultProxy(engine) as proxy:
        proxy.inject(Fault.CUT_AFTER, when=matching("COMMIT"))
        ...  # a loader whose core_url is proxy.url loses the answer to its next COMMIT

Every request that carries SQL is a `Call`, numbered from 1. Faults are either planned (`inject`) or drawn by a function
(`decide`), for example from a seeded random source. What was injected is counted in `injected`.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from standin import StandIn
from standin.server import Reply


class Fault(StrEnum):
    """What can go wrong with one statement. Without another word, the engine did not act."""

    REFUSE = "connection refused"
    CUT_BEFORE = "cut before the engine acted"
    CUT_AFTER = "cut after the engine acted"
    LATE = "cut at once, the engine acts later"
    HANG_BEFORE = "no answer, the engine did not act"
    HANG_AFTER = "no answer, the engine acted"
    HTTP_400 = "400, rejected"
    HTTP_401 = "401"
    HTTP_409 = "409, conflict"
    HTTP_500 = "500"
    HTTP_502 = "502, an HTML page"
    HTTP_503 = "503"
    JUNK = "200 with junk, the engine did not act"
    JUNK_AFTER = "200 with junk, the engine acted"
    CONFLICT = "the transaction lost its commit race"
    SWALLOW_BEGIN = "BEGIN answered with an error"
    RESET_SESSION = "the session was reset after the statement, its transaction dropped"
    FORGET_SESSION = "the session was reset after the statement, its transaction left open"
    ABORT = "the transaction was aborted by the engine"
    LOSE = "the engine forgot the transaction"
    RESTART = "the engine restarted: no transaction is left"
    SINGLE_WRITER = "another write transaction is active"
    DELAY = "the answer is late"


CONFLICT_TEXT = (
    "Failed to commit transaction, error: 'detected 2 conflicts with 1 transactions on transaction commit', code: 9"
)
"""Reported from production; see errors.py."""


@dataclass(frozen=True)
class Call:
    """One request with SQL."""

    number: int
    sql: str
    transaction_id: str | None
    target: str
    body: bytes

    @property
    def text(self) -> str:
        """The SQL on one line."""
        return " ".join(self.sql.split())


Condition = Callable[[Call], bool]


def matching(start: str, occurrence: int = 1) -> Condition:
    """A condition: the nth statement from now whose text begins so."""
    seen = 0

    def matches(call: Call) -> bool:
        nonlocal seen
        seen += call.text.startswith(start)
        return seen == occurrence and call.text.startswith(start)

    return matches


class FaultProxy:
    """Listens on 127.0.0.1 and passes requests on to a stand-in in this process; a context manager."""

    def __init__(self, engine: StandIn, hang_seconds: float = 30.0, delay: Callable[[], None] | None = None) -> None:
        self.engine = engine
        self.calls: list[Call] = []
        self.injected: Counter[Fault] = Counter()
        self.broken: list[str] = []
        """Failures of the stand-in itself; must be empty at the end."""
        self.decide: Callable[[Call], Fault | None] = lambda _: None
        """Asked for every call that no planned fault takes."""
        self.conflict_status = 400
        self.hang_seconds = hang_seconds
        self._delay = delay or (lambda: time.sleep(0.05))
        self._planned: list[tuple[Condition, Fault]] = []
        self._late: list[tuple[int, Call]] = []
        self.late_by = 3
        """After how many further statements a LATE one acts."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """For `firebolt.core_url`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def inject(self, fault: Fault, when: Condition | int = lambda _: True) -> None:
        """Plan one fault, for the next call that meets the condition, or for the nth call from now (from 1)."""
        if isinstance(when, int):
            number = len(self.calls) + when
            self._planned.append((lambda call: call.number == number, fault))
        else:
            self._planned.append((when, fault))

    def quiet(self) -> None:
        """No more faults: forget the planned ones, and let late statements act."""
        self._planned.clear()
        self.decide = lambda _: None
        self._act_late(None)

    def restart(self) -> None:
        """All open transactions of the engine vanish, as in a restart."""
        for transaction in list(self.engine.engine._open.values()):
            if transaction.explicit:
                self.engine.engine.rollback(transaction)

    def handle(self, target: str, headers: Any, body: bytes) -> Reply | Cut:
        """The answer to one POST, with its fault."""
        parts = urlsplit(target)
        parameters = parse_qs(parts.query)
        if parts.path == "/oauth/token":
            return self.engine.answer("POST", target, headers, body)
        transaction = parameters.get("transaction_id", [None])[0]
        with self._lock:
            call = Call(len(self.calls) + 1, body.decode(), transaction, target, body)
            self.calls.append(call)
        self._act_late(call.number)
        if transaction is not None and any(late.transaction_id == transaction for _, late in self._late):
            return refusal(400, "the transaction is busy with another statement", "Transaction Error")
        fault = self._fault(call)
        if fault is not None:
            self.injected[fault] += 1
        return self._answer(call, headers, fault)

    def _act(self, target: str, headers: Any, body: bytes) -> Reply:
        try:
            return self.engine.answer("POST", target, headers, body)
        except Exception as error:  # noqa: BLE001 - a defect of the stand-in; whoever runs the test must look at `broken`
            self.broken.append(f"{error!r} at {body.decode()}\n{traceback.format_exc()}")
            return refusal(500, f"the stand-in failed: {error!r}", "Internal Error")

    def _fault(self, call: Call) -> Fault | None:
        for number, (condition, fault) in enumerate(self._planned):
            if condition(call):
                del self._planned[number]
                return fault
        return self.decide(call)

    def _answer(self, call: Call, headers: Any, fault: Fault | None) -> Reply | Cut:
        def act() -> Reply:
            return self._act(call.target, headers, call.body)

        if fault in _PLAIN:
            return _PLAIN[fault]
        match fault:
            case None:
                return act()
            case Fault.REFUSE:
                return Cut(reset=True)
            case Fault.CUT_BEFORE:
                return Cut()
            case Fault.CUT_AFTER:
                act()
                return Cut()
            case Fault.LATE:
                self._late.append((call.number + self.late_by, call))
                return Cut()
            case Fault.HANG_BEFORE | Fault.HANG_AFTER:
                if fault is Fault.HANG_AFTER:
                    act()
                self._stopping.wait(self.hang_seconds)
                return Cut()
            case Fault.JUNK_AFTER:
                reply = act()
                return Reply(200, b"<html>not JSON", reply.headers) if reply.status == 200 else reply
            case Fault.CONFLICT:
                self._end(call)
                return refusal(self.conflict_status, CONFLICT_TEXT, "Transaction Error", "9")
            case Fault.SINGLE_WRITER:
                self._end(call)
                return refusal(400, "another write transaction is active; at most one is allowed", "Transaction Error")
            case Fault.RESET_SESSION | Fault.FORGET_SESSION:
                reply = act()
                if fault is Fault.RESET_SESSION:
                    self._end(call, reply)
                return Reply(reply.status, reply.body, {**reply.headers, "Firebolt-Reset-Session": "true"})
            case Fault.ABORT:
                if call.transaction_id is not None:
                    self._act(call.target, headers, b"SELECT no_such_column")
                return act()
            case Fault.LOSE:
                self._end(call)
                return act()
            case Fault.RESTART:
                self.restart()
                return Cut()
            case Fault.DELAY:
                self._delay()
                return act()
        raise AssertionError(f"no rule for {fault}")

    def _end(self, call: Call, reply: Reply | None = None) -> None:
        """Roll the call's transaction back inside the engine (or the one that its BEGIN has just opened)."""
        update = (reply.headers if reply else {}).get("Firebolt-Update-Parameters", "")
        opened = dict(part.split("=") for part in update.split(",") if part).get("transaction_id")
        transaction = self.engine.engine._open.get(call.transaction_id or opened or "")
        if transaction is not None:
            self.engine.engine.rollback(transaction)

    def _act_late(self, number: int | None) -> None:
        with self._lock:
            due = [call for at, call in self._late if number is None or at <= number]
            self._late = [(at, call) for at, call in self._late if call not in due]
        for call in due:
            self._act(call.target, {}, call.body)


@dataclass(frozen=True)
class Cut:
    """No answer: the connection ends."""

    reset: bool = False


def refusal(status: int, text: str, name: str = "Execution Error", code: str = "0") -> Reply:
    """An error in Firebolt's JSON; with status 200, errors in the body of a successful answer."""
    error = {"description": text, "code": code, "name": name, "severity": "ERROR"}
    body: dict[str, Any] = {"errors": [error], "query": {"query_id": "q"}, "statistics": {"elapsed": 0.0}}
    if status == 200:
        body |= {"meta": [], "data": [], "rows": 0}
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


_PLAIN: dict[Fault | None, Reply] = {
    Fault.HTTP_400: refusal(400, "Line 1, Column 1: the statement was rejected"),
    Fault.HTTP_401: Reply(401, b"unauthorized", {"Content-Type": "text/plain"}),
    Fault.HTTP_409: refusal(409, CONFLICT_TEXT, "Transaction Error", "9"),
    Fault.HTTP_500: refusal(500, "internal error"),
    Fault.HTTP_502: Reply(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"}),
    Fault.HTTP_503: Reply(503, b"Service Unavailable: the engine is starting", {"Content-Type": "text/plain"}),
    Fault.JUNK: Reply(200, b"<html>not JSON", {"Content-Type": "text/html"}),
    Fault.SWALLOW_BEGIN: refusal(503, "cannot begin a transaction now"),
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _handler_for(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 1 << 16

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(proxy.handle(self.path, self.headers, body))

        def do_GET(self) -> None:
            self._send(proxy.engine.answer("GET", self.path, self.headers, b""))

        def _send(self, reply: Reply | Cut) -> None:
            if isinstance(reply, Cut):
                if reply.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: `FaultProxy.calls` has it."""

    return Handler
