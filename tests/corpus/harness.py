"""Cases as tables: files, the target before, and what must be there afterwards.

Every case has a source table and a target of its own. All cases of a module go through one pipeline, and the files of
all cases go in together, as SQS batches: a case that takes its neighbours along shows in theirs.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firebolt_cdc.sql import ident
from firebolt_cdc.telemetry import logger
from standin import StandIn
from support import Pipeline, table_config

CHANGE = "20240101-100000.parquet"
LATER = "20240102-100000.parquet"
FULL = "LOAD00000001.parquet"
Columns = dict[str, Any]


def file(columns: Columns, **options: Any) -> bytes:
    """A Parquet file of these columns, with pyarrow's writer options."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Case:
    """One case; the defaults fit a table of `id` (the key) and `v` that does not exist before."""

    name: str
    files: dict[str, bytes | Columns]
    """Bytes or columns by file name (with folders, if it has any)."""
    rows: list[list[Any]] | None = None
    """The target's rows afterwards; None where it must not exist."""
    failed: str | dict[str, str] = ""
    """A pattern in the message of the files that must end `failed`: for all, or by file name."""
    failure: str = "permanent"
    """The class of those failures."""
    before: str = ""
    """The columns of a target that exists, in SQL."""
    filled: str = ""
    """Its rows, in SQL."""
    columns: dict[str, str] | None = None
    """The target's columns afterwards with their types, without the loader's own; None: not looked at."""
    select: str = '"id", "v"'
    key: tuple[str, ...] = ("id",)
    table: dict[str, Any] = field(default_factory=dict)
    """More of the entry in the table map."""
    target: str = ""
    """The target's name, where it matters."""
    batches: bool = False
    """Each file in a batch of its own, in the order given."""
    left_out: tuple[str, ...] = ()
    """The columns that the log says were left out, with their DDL (`None` without); `{table}` is the target."""


@dataclass(frozen=True)
class Result:
    """What is there after a case."""

    ledger: dict[str, tuple[str, str | None, str]]
    """Status, class and message by file name."""
    columns: dict[str, str]
    rows: list[list[Any]] | None


class Corpus:
    """A pipeline with one table per case."""

    def __init__(self, engine: StandIn, cases: Sequence[Case]) -> None:
        self.cases = {case.name: case for case in cases}
        assert len(self.cases) == len(cases), "two cases have one name"
        self._sources = {case.name: f"corpus/t{number:03}" for number, case in enumerate(cases)}
        self._targets = {case.name: case.target or f"t{number:03}" for number, case in enumerate(cases)}
        tables = {
            self._sources[case.name]: table_config(self._targets[case.name], case.key, **case.table) for case in cases
        }
        self.pipeline = Pipeline(engine.url, tables)
        self.log: list[dict[str, Any]] = []
        self._ledger: list[list[Any]] = []
        self._columns: list[list[Any]] = []

    def run(self) -> None:
        """Make the targets and deliver all files."""
        self.pipeline.migrate()
        batches: list[list[dict[str, Any]]] = [[]]
        for case in self.cases.values():
            target = ident(self._targets[case.name])
            if case.before:
                self.pipeline.sql(f"CREATE TABLE {target} ({case.before})")
            if case.filled:
                self.pipeline.sql(f"INSERT INTO {target} VALUES {case.filled}")
            events = {}
            for name in sorted(case.files, key=lambda name: "LOAD" not in name):  # a full load is older than changes
                content = case.files[name]
                body = content if isinstance(content, bytes) else file(content)
                events[name] = self.pipeline.put(f"{self._sources[case.name]}/{name}", body)
            for number, name in enumerate(case.files):
                place = number if case.batches else 0
                batches += [[] for _ in range(len(batches), place + 1)]
                batches[place].append(events[name])
        stream = io.StringIO()
        [handler] = logger.handlers
        assert isinstance(handler, logging.StreamHandler)
        before = handler.setStream(stream)
        try:
            for events in batches:
                assert self.pipeline.deliver(*events, timeout_seconds=900.0) == []
        finally:
            handler.setStream(before)
        self.log = [json.loads(line) for line in stream.getvalue().splitlines()]
        self._ledger = self.pipeline.sql(
            "SELECT source_table, file_key, status, error_class, error_message FROM cdc_processed_files"
        )
        self._columns = self.pipeline.sql(
            "SELECT table_name, column_name, data_type FROM information_schema.columns ORDER BY ordinal_position"
        )

    def result(self, name: str) -> Result:
        """What became of a case."""
        case, source = self.cases[name], self._sources[name]
        ledger = {
            str(key).removeprefix(f"{source}/"): (str(status), failure, str(message or ""))
            for table, key, status, failure, message in self._ledger
            if table == source
        }
        columns = {
            str(column): str(type_).upper()
            for table, column, type_ in self._columns
            if table == self._targets[name] and not str(column).startswith("_cdc_")
        }
        if not columns:
            return Result(ledger, columns, None)
        rows = self.pipeline.sql(f"SELECT {case.select} FROM {ident(self._targets[name])} ORDER BY 1, 2")
        return Result(ledger, columns, rows)

    def check(self, name: str) -> None:
        """Hold what became of a case against what it expects."""
        case, result = self.cases[name], self.result(name)
        failed = dict.fromkeys(case.files, case.failed) if isinstance(case.failed, str) else case.failed
        assert set(result.ledger) == set(case.files)
        for file_name, (status, failure, message) in result.ledger.items():
            if pattern := failed.get(file_name):
                assert (status, failure) == ("failed", case.failure), message
                assert re.search(pattern, message), message
                assert f"{self._sources[name]}/{file_name}" in message or case.failure == "transient", message
            else:
                assert (status, failure, message) == ("completed", None, ""), message
        assert repr(result.rows) == repr(case.rows)
        if case.columns is not None:
            assert result.columns == case.columns
        target = self._targets[name]
        left_out = [
            f"{line['column']} {line.get('ddl')}"
            for line in self.log
            if line["message"] == "a column was left out (schema_drift = ignore)" and line["table"] == target
        ]
        assert left_out == [said.format(table=target) for said in case.left_out]

    def check_log(self) -> None:
        """No error that the loader does not know, and no traceback."""
        assert [line for line in self.log if "exception" in line or "unexpected" in line["message"]] == []
