"""A source database that changes, the files in which DMS would report it, and what the targets must hold in the end.

All of it follows from the seed, but for `run`, a number that is in every row and key: so a stack may be used again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from stack.data import parquet

KEYS = 60
"""Rows that a merge table can have."""
FULL_LOADS = 2
"""Full-load files of each table, before its changes."""
BIG = 10**9
"""Ids from here on are those of the big file."""
SMALL = 10**6
"""The id of the rows in the small files that compete with it."""
DUPLICATED = 0.15

SCHEMA = pa.schema(
    [
        ("Op", pa.string()),
        ("run", pa.int64()),
        ("id", pa.int64()),
        ("value", pa.string()),
    ]
)
BEGAN = datetime(2024, 11, 24, 12)

Row = tuple[str, int, str]
"""Op, id, value; the value names the change that wrote it."""


@dataclass(frozen=True)
class Table:
    """A table of the campaign."""

    name: str
    merge: bool

    @property
    def target(self) -> str:
        return f"chaos_{self.name}"


@dataclass
class File:
    """A file in commit order: its key below the source prefix, and its rows."""

    table: Table
    key: str
    rows: list[Row]
    run: int

    @property
    def is_full_load(self) -> bool:
        return "/LOAD" in self.key

    def body(self) -> bytes:
        return _parquet(self.run, *zip(*self.rows, strict=True))


@dataclass
class BigFile(File):
    """A change file of very many rows, for an append table; it belongs to no plan."""

    number: int = 0

    @classmethod
    def of(cls, table: Table, number: int, run: int) -> BigFile:
        name = f"{BEGAN - timedelta(days=1):%Y%m%d-%H%M%S}000.parquet"
        return cls(table, f"chaos/{table.name}/{run}/big/{name}", [], run, number)

    def body(self) -> bytes:
        number = self.number
        return _parquet(self.run, pa.repeat("I", number), range(BIG, BIG + number), pa.repeat("big", number))


def _parquet(run: int, ops: Iterable[str], ids: Iterable[int], values: Iterable[str]) -> bytes:
    keys = pa.array(ids, pa.int64())
    columns = [pa.array(ops, pa.string()), pa.repeat(run, len(keys)), keys, pa.array(values, pa.string())]
    return parquet(pa.Table.from_arrays(columns, schema=SCHEMA))


@dataclass
class Plan:
    """A campaign's input: the files in commit order, and the order in which S3 announces them."""

    tables: list[Table]
    files: list[File]
    deliveries: list[tuple[File, bool]]
    """File, and whether this is a repetition, which comes after the first."""
    merged: dict[Table, dict[int, str]] = field(default_factory=dict)
    """The oracle of merge tables: value by id."""
    appended: dict[Table, dict[tuple[int, str], str]] = field(default_factory=dict)
    """The oracle of append tables: Op by id and value; each of these rows once."""


def tables(number: int) -> list[Table]:
    """Merge and append tables by turns."""
    return [Table(f"{'am'[n % 2]}{n:02d}", merge=n % 2 == 1) for n in range(number)]


def table_map(of: Iterable[Table]) -> dict[str, Any]:
    """The tables as Terraform's variable `extra_tables` takes them."""
    return {
        f"chaos/{t.name}": {"target": t.target} | ({"primary_key": ["run", "id"]} if t.merge else {"mode": "append"})
        for t in of
    }


def plan(seed: int, files: int, tables_: int, duplicates: float, run: int, full_loads: int = FULL_LOADS) -> Plan:
    """Make the source's changes, and choose the order of deliveries: shuffled nearby, some very late, some repeated.

    Full-load files, `full_loads` of each table, come first of all: what is newer than a change is another full load.
    """
    chance = random.Random(seed)
    made = Plan(tables(tables_), [], [])
    loaded = dict.fromkeys(made.tables, 0)
    for number in range(files):
        table = made.tables[number] if number < tables_ else chance.choice(made.tables)
        full = loaded[table] < full_loads
        loaded[table] += 1
        if full:
            name = f"LOAD{loaded[table]:08X}.parquet"
        else:
            written = BEGAN + timedelta(milliseconds=number * 37)
            name = f"{written:%Y/%m/%d/%Y%m%d-%H%M%S}{written.microsecond // 1000:03d}.parquet"
        rows = list(_full(number, loaded[table], chance) if full else _changes(made, table, number, chance))
        made.files.append(File(table, f"chaos/{table.name}/{run}/{name}", rows, run))
        _apply(made, table, rows)
    places = [
        (number + (chance.uniform(0, files / 2) if chance.random() < 0.03 else chance.uniform(0, 20)), number)
        for number in range(files)
    ]
    again = [
        (place + chance.choice([0, chance.uniform(0, 5), chance.uniform(0, files / 2)]), number)
        for place, number in chance.sample(places, round(files * duplicates))
    ]
    ordered = sorted(
        [(-1.0 if made.files[n].is_full_load else p, False, n) for p, n in places] + [(p, True, n) for p, n in again]
    )
    made.deliveries = [(made.files[number], repeated) for _, repeated, number in ordered]
    return made


def small_file(big: File, number: int) -> File:
    """One of the files that compete with the big one for its table."""
    key = big.key.replace("/big/", f"/small{number}/")
    return File(big.table, key, [("I", SMALL, f"small.{number}")], big.run)


def _full(number: int, part: int, chance: random.Random) -> Iterable[Row]:
    """A full-load file: no key of it is in another one."""
    share = KEYS // FULL_LOADS
    keys = chance.sample(range((part - 1) * share, part * share), chance.randint(1, share // 2))
    return (("I", key, f"{number}.{n}") for n, key in enumerate(keys))


def _changes(made: Plan, table: Table, number: int, chance: random.Random) -> Iterable[Row]:
    alive = set(made.merged.get(table, ()))
    for n in range(chance.randint(1, 12)):
        key = chance.randrange(KEYS)
        op = "I" if not table.merge or key not in alive else chance.choice("UUUD")
        (alive.discard if op == "D" else alive.add)(key)
        yield op, key, f"{number}.{n}"


def _apply(made: Plan, table: Table, rows: Iterable[Row]) -> None:
    """The oracle: a plain application in commit order."""
    if not table.merge:
        made.appended.setdefault(table, {}).update({(key, value): op for op, key, value in rows})
        return
    state = made.merged.setdefault(table, {})
    for op, key, value in rows:
        if op == "D":
            state.pop(key, None)
        else:
            state[key] = value
