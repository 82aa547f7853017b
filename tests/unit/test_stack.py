"""The local stack's own parts: processes that are known to be ours, Terraform's provider source, the demo's data."""

from __future__ import annotations

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

from stack import data, service, terraform
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
