"""The local stack's own parts: processes that are known to be ours, Terraform's provider source, the demo's data."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from stack import data, emulator, service, terraform
from stack.service import Service, StackError

SERVER = """
import http.server, sys
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(service, "LOCAL", tmp_path)
    monkeypatch.setattr(service, "LOGS", tmp_path / "logs")
    found = Service("server")
    yield found
    found.kill()


def start(server: Service) -> None:
    port = server.port()
    server.start([sys.executable, "-c", SERVER, str(port)], dict(os.environ), port)


def test_a_service_is_found_again_and_stopped_once(server: Service) -> None:
    assert not server.running()
    start(server)
    assert Service("server").running()
    with pytest.raises(StackError, match="running already"):
        start(server)
    assert Service("server").stop()
    assert not server.running()
    assert not server.stop()


def test_a_restart_after_a_crash_keeps_the_port(server: Service) -> None:
    start(server)
    url = server.url
    assert server.kill()
    start(server)
    assert server.url == url


def test_a_stale_state_file_never_costs_a_stranger_its_life(server: Service) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        state = server._state_path
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"pid": stranger.pid, "port": 1}))
        assert not server.running()
        assert not server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_does_not_start_says_why(server: Service) -> None:
    with pytest.raises(StackError, match="no such thing"):
        server.start([sys.executable, "-c", "raise SystemExit('no such thing')"], dict(os.environ), server.port())


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    monkeypatch.setattr(terraform, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(terraform, "_mirrors", lambda: [folder])
    monkeypatch.delenv("TF_CLI_CONFIG_FILE", raising=False)
    return folder


def test_terraform_uses_a_mirror_only_without_its_registry(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terraform, "_registry_reachable", lambda: True)
    assert "TF_CLI_CONFIG_FILE" not in terraform._environment(tmp_path)
    monkeypatch.setattr(terraform, "_registry_reachable", lambda: False)
    config = Path(terraform._environment(tmp_path)["TF_CLI_CONFIG_FILE"])
    assert json.dumps(str(mirror)) in config.read_text()


def test_terraform_keeps_a_configuration_of_the_callers(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terraform, "_registry_reachable", lambda: False)
    own = tmp_path / "own.tfrc"
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", str(own))
    assert terraform._environment(tmp_path)["TF_CLI_CONFIG_FILE"] != str(own)
    own.touch()
    assert terraform._environment(tmp_path)["TF_CLI_CONFIG_FILE"] == str(own)


def read(file: data.File) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(file.body)).read(use_threads=False)


def test_expected_flights_are_the_files_applied_one_after_the_other() -> None:
    dataset = data.dataset()
    expected = next(table.rows for table in dataset.expected if table.target == "flights")
    assert [file.key for file in dataset.changes] == sorted(file.key for file in dataset.changes)
    loaded = pa.concat_tables([read(file) for file in dataset.full_load if "/flights/" in file.key])
    journal = [row for file in dataset.changes for row in read(file).to_pylist()]
    is_changed = pc.is_in(loaded["flight_id"], pa.array({row["flight_id"] for row in journal}))

    flights: dict[int, dict[str, Any]] = {}
    for row in loaded.filter(is_changed).to_pylist() + journal:
        if row.pop("Op") == "D":
            del flights[row["flight_id"]]
        else:
            flights[row["flight_id"]] = row
    changed = pa.Table.from_pylist(list(flights.values()), expected.schema)
    untouched = loaded.filter(pc.invert(is_changed)).drop_columns(["Op"])
    assert pa.concat_tables([untouched, changed]).sort_by("flight_id").equals(expected)


def test_the_changes_hold_what_makes_them_hard() -> None:
    dataset = data.dataset()
    journal = [(row["Op"], row["flight_id"]) for file in dataset.changes for row in read(file).to_pylist()]
    assert sum(file.rows for file in dataset.full_load) > 300_000
    assert {op for op, _ in journal} == {"I", "U", "D"}
    first = [row["flight_id"] for row in read(dataset.changes[0]).to_pylist()]
    assert len(set(first)) < len(first), "several changes to one key in one file"
    deleted: set[int] = set()
    returned = 0
    for op, key in journal:
        returned += op == "I" and key in deleted
        deleted = deleted - {key} if op == "I" else deleted | ({key} if op == "D" else set())
    assert returned > 0, "deleted keys come back"
    assert "flights/flights/LOAD0000000A.parquet" in {file.key for file in dataset.full_load}


Sent = list[dict[str, Any]]


async def ask(app: Any, *, path: str = "/", invocation: bytes = b"one", lost: bool = False) -> Sent:
    """POST to the emulator's application; `lost`: the connection breaks before the answer."""
    sent: Sent = []
    parts = iter([{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}])

    async def receive() -> dict[str, Any]:
        return next(parts)

    async def send(message: dict[str, Any]) -> None:
        if lost:
            raise ConnectionResetError
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"amz-sdk-invocation-id", invocation)]}
    with contextlib.suppress(ConnectionResetError):
        await app(scope, receive, send)
    return sent


def serving(*statuses: int) -> tuple[Any, list[bytes]]:
    """An application that answers these statuses, one after another, and the bodies that it was sent."""
    done: list[bytes] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        first, second = await receive(), await receive()
        done.append(first["body"] + second["body"])
        await send({"type": "http.response.start", "status": statuses[len(done) - 1], "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(done)})

    return emulator.repeatable(serve), done


@pytest.mark.parametrize(
    ("statuses", "path", "invocations", "bodies"),
    [
        pytest.param((201,), "/", (b"one", b"one"), [b"1"], id="what was done is not done again"),
        pytest.param((201, 201), "/", (b"one", b"two"), [b"2"], id="another request"),
        pytest.param((503, 201), "/", (b"one", b"one"), [b"2"], id="an error is tried again"),
        pytest.param((200, 200), "/f/invocations", (b"one", b"one"), [b"2"], id="a function runs again"),
    ],
)
def test_the_emulator_answers_a_request_whose_answer_got_lost(
    statuses: tuple[int, ...], path: str, invocations: tuple[bytes, bytes], bodies: list[bytes]
) -> None:
    app, done = serving(*statuses)

    async def twice() -> Sent:
        await ask(app, path=path, invocation=invocations[0], lost=True)
        return await ask(app, path=path, invocation=invocations[1])

    answer = asyncio.run(twice())
    assert [m["status"] for m in answer if "status" in m] == [statuses[-1]]
    assert [m["body"] for m in answer if "body" in m] == bodies
    assert done == [b"ab"] * len(statuses)
