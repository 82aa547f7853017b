"""Every Arrow type, in change files and full loads, into created and existing targets, read back value by value.

The table of types in docs/data.md is the specification: each of its rows is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from corpus.harness import CHANGE, FULL, Case, Corpus
from firebolt_cdc import schema
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.schema import Column
from support import repository

INF, NAN = float("inf"), float("nan")
DAYS = [date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31)]
SECONDS = [datetime(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59), datetime(9999, 12, 31, 23, 59, 59)]
MILLIS = [*SECONDS, datetime(1969, 12, 31, 23, 59, 59, 999_000)]
MICROS = [*SECONDS, datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime(9999, 12, 31, 23, 59, 59, 999_999)]
NANOS = [datetime(1700, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime(2250, 1, 1)]
TEXTS = [
    "",
    "ä日本🎉",
    'it\'s "q" \\ ` ? $1 {} %s',
    "\r\n\t\x01\x7f",
    "NULL",
    "\\x41",
    "x" * 2**20,
    "a\u0301",
    "\u202e",
]


def digits(text: str, *more: str) -> list[Decimal]:
    return [Decimal(t) for t in (text, *more)]


def with_zone(moments: list[datetime]) -> list[datetime]:
    return [moment.replace(tzinfo=UTC) for moment in moments]


NINES = "9" * 38
SAMPLES: dict[str, tuple[pa.DataType, list[Any]]] = {
    str(kind): (kind, values)
    for kind, values in [
        *((pa.type_for_alias(f"int{n}"), [-(2 ** (n - 1)), 2 ** (n - 1) - 1, 1]) for n in (8, 16, 32, 64)),
        *((pa.type_for_alias(f"uint{n}"), [0, 2**n - 1, 1]) for n in (8, 16, 32, 64)),
        (pa.float16(), [np.float16(x) for x in (1.5, NAN, INF, -INF, -0.0, 6e-8, 65504)]),
        (pa.float32(), [1.5, NAN, INF, -INF, -0.0, 1.401298464324817e-45, 3.4028234663852886e38]),
        (pa.float64(), [0.1, NAN, INF, -INF, -0.0, 5e-324, 1.7976931348623157e308]),
        (pa.decimal128(1, 0), digits("9", "-9")),
        (pa.decimal32(9, 2), digits("9999999.99", "-9999999.99", "0.01")),
        (pa.decimal64(18, 4), digits("99999999999999.9999", "-99999999999999.9999", "0.0001")),
        (pa.decimal128(10, 2), digits("99999999.99", "-99999999.99", "0.01")),
        (pa.decimal128(38, 0), digits(NINES, f"-{NINES}", "0")),
        (pa.decimal128(38, 38), digits(f"0.{NINES}", f"-0.{NINES}", "0E-38")),
        (pa.decimal256(38, 10), digits("1.5000000000", "-1.5000000000")),
        (pa.decimal256(39, 0), digits("1" + "0" * 38)),
        (pa.bool_(), [True, False]),
        (pa.date32(), DAYS),
        (pa.date64(), DAYS),
        (pa.timestamp("s"), SECONDS),
        (pa.timestamp("ms"), MILLIS),
        (pa.timestamp("us"), MICROS),
        (pa.timestamp("ns"), NANOS),
        (pa.timestamp("ms", "UTC"), with_zone(MILLIS)),
        (pa.timestamp("us", "UTC"), with_zone(MICROS)),
        (pa.timestamp("ns", "UTC"), with_zone(NANOS)),
        (pa.timestamp("us", "Europe/Berlin"), with_zone(MICROS[1:2])),
        (pa.time32("s"), [time(0), time(23, 59, 59)]),
        (pa.time32("ms"), [time(0), time(23, 59, 59, 999_000)]),
        (pa.time64("us"), [time(0), time(23, 59, 59, 999_999)]),
        (pa.time64("ns"), [time(0), time(23, 59, 59, 999_999)]),
        (pa.string(), TEXTS),
        (pa.large_string(), TEXTS),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
        (pa.binary(), [b"", bytes(range(256)), b"\\x41"]),
        (pa.large_binary(), [b"\0"]),
        (pa.binary(3), [b"\0\xff\x7f"]),
        (pa.list_(pa.int64()), [[1, None, -1], []]),
        (pa.list_(pa.string()), [["", '"it\'s", {}[]']]),
        (pa.list_(pa.float64()), [[0.1, NAN, -INF]]),
        (pa.list_(pa.decimal128(10, 2)), [digits("1.50")]),
        (pa.list_(pa.timestamp("us")), [[MICROS[1]]]),
        (pa.list_(pa.uint64()), [[2**64 - 1]]),
        (pa.list_(pa.time64("us")), [[time(1, 2, 3)]]),
        (pa.list_(pa.list_(pa.int32())), [[[1], [], [2, None]]]),
        (pa.large_list(pa.binary()), [[b"\0\xff"]]),
        (pa.null(), []),
        (pa.list_(pa.int32(), 2), [[1, 2]]),
        (pa.struct([("a", pa.int32())]), [{"a": 1}]),
        (pa.map_(pa.string(), pa.int32()), [[("a", 1)]]),
        (pa.duration("us"), [5]),
        (pa.uuid(), [b"u" * 16]),
        (pa.json_(), ['{"a": 1}']),
        (pa.string_view(), ["x"]),
    ]
}
"""Values by the name of their type; a null is added to each."""
TARGETS = ["INTEGER", "BIGINT", "NUMERIC", "REAL", "DOUBLE PRECISION", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ"]
TARGETS += ["TEXT", "BYTEA"]
NUMERIC = "NUMERIC(38, 9)"
"""What the docs' NUMERIC without digits stands for here."""
REWRITTEN = re.compile(r"time(32|64)|uint64|null|\[ns|decimal256\(39")
"""Types for which a full-load file is rewritten; they get a file of their own, so that the others' is not."""
MOMENT = datetime(2024, 1, 2, 3, 4, 5)


def documented() -> Iterator[tuple[str, str, list[str]]]:
    """Name, type of a new column (empty: none), and other types that fit, for each type in the docs' table."""
    text = (repository() / "docs" / "data.md").read_text(encoding="utf-8")
    _, lines = re.split(r"\| In the file \(Arrow\) .*\n\|[- |]+\n", text)
    for line in lines.split("\n\n")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        for name in re.findall("`([^`]+)`", cells[0]):
            yield name, cells[1].strip("—"), [t.strip() for t in re.split(r",(?![^(]*\))", cells[2].strip("—")) if t]


DOCUMENTED = {name: (created, others) for name, created, others in documented()}
HELD = [name for name, (created, _) in DOCUMENTED.items() if created]


def column(name: str) -> pa.Array:
    """All values of a type, and a null."""
    kind, values = SAMPLES[name]
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([*values, None], kind.storage_type))
    return pa.array([*values, None], kind)


def harmless(name: str) -> pa.Array:
    """A value that fits into every type of its family."""
    kind, _ = SAMPLES[name]
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(0 if kind.scale == kind.precision else 1), None], kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pa.array([np.float16(1) if pa.types.is_float16(kind) else 1, None], kind)
    if pa.types.is_timestamp(kind):
        return pa.array([MOMENT.replace(tzinfo=UTC) if kind.tz else MOMENT, None], kind)
    return column(name)


def read_back(value: Any, target: str) -> Any:
    """A value as the SDK gives it from a column of the target's type."""
    if isinstance(value, list):
        return [read_back(item, target.removeprefix("ARRAY(").removesuffix(")")) for item in value]
    if hasattr(value, "to_pydatetime"):
        value = value.to_pydatetime(warn=False)
    if value is None:
        return None
    if isinstance(value, time):
        return value.isoformat(timespec="microseconds")
    if target.startswith("NUMERIC"):
        scale = int(target.rstrip(")").split(",")[1])
        return Context(prec=38).quantize(Decimal(value), Decimal(1).scaleb(-scale))
    if target in ("INTEGER", "BIGINT"):
        return int(value)
    if target in ("REAL", "DOUBLE PRECISION"):
        return float(value)
    if target == "TIMESTAMPTZ" and isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if target in ("TIMESTAMP", "TIMESTAMPTZ") and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC if target == "TIMESTAMPTZ" else None)
    if target == "TIMESTAMP" and value.tzinfo:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


Wanted = tuple[str, str]
"""A type's name in the file, and the type of its column in the target."""


def wide(name: str, file_name: str, wanted: list[Wanted], arrays: list[pa.Array], existing: bool) -> Case:
    """One table with a column for each type."""
    length = max(len(array) for array in arrays)
    padded = [pa.concat_arrays([array, pa.nulls(length - len(array), array.type)]) for array in arrays]
    columns = {f"c{n:02}": array for n, array in enumerate(padded)}
    return Case(
        name,
        {file_name: {"Op": ["I"] * length, "id": list(range(length))} | columns},
        [
            [row, *(read_back(array[row].as_py(), target) for (_, target), array in zip(wanted, padded, strict=True))]
            for row in range(length)
        ],
        before='"id" BIGINT NOT NULL' + "".join(f", c{n:02} {target}" for n, (_, target) in enumerate(wanted))
        if existing
        else "",
        columns={"id": "BIGINT"} | {f"c{n:02}": target for n, (_, target) in enumerate(wanted)},
        select="id, " + ", ".join(columns),
    )


def spread(what: str, wanted: list[Wanted], values: Callable[[str], pa.Array], existing: bool) -> list[Case]:
    """A file of changes with all columns, a full load of those that the engine reads, and one of the others."""
    rewritten = [w for w in wanted if REWRITTEN.search(w[0])]
    plain = [w for w in wanted if w not in rewritten]
    parts = [("changes", CHANGE, wanted), ("full load", FULL, plain), ("full load, rewritten", FULL, rewritten)]
    return [
        wide(f"{what}, {part}", file_name, chosen, [values(name) for name, _ in chosen], existing)
        for part, file_name, chosen in parts
    ]


def target_type(documented: str, name: str) -> str:
    kind, _ = SAMPLES[name]
    if documented == "NUMERIC(p, s)":
        return f"NUMERIC({kind.precision}, {kind.scale})"
    return NUMERIC if documented == "NUMERIC" else documented


OWN = [(name, target_type(DOCUMENTED[name][0], name)) for name in HELD]
OTHER = [
    (name, target_type(other, name)) for name, (_, others) in DOCUMENTED.items() for other in others if other != "TEXT"
]
"""What becomes text is in test_drift.py."""
CASES = [
    *spread("created", OWN, column, existing=False),
    *spread("existing", OWN, column, existing=True),
    *spread("other", OTHER, harmless, existing=True),
    *[
        Case(
            f"{name} is not held, {file_name}",
            {file_name: {"id": [1, 2], "v": column(name)}},
            failed=r"'v' has the type .*, which Firebolt cannot hold; leave it out",
        )
        for name, (created, _) in DOCUMENTED.items()
        for file_name in (CHANGE, FULL)
        if not created
    ],
    *[
        Case(
            f"{what}, {file_name}",
            {file_name: {"id": [1, 2], "v": values}},
            [],
            f"{told}.*correct (the value|it) in the source",
            before=f'"id" BIGINT, "v" {target}',
        )
        for what, values, target, told in (
            ("character zero", pa.array([None, "a\0b"]), "TEXT", "row 2 holds a character zero"),
            (
                "character zero, large",
                pa.array([None, "\0"], pa.large_string()),
                "TEXT",
                "row 2 holds a character zero",
            ),
            ("character zero, repeated", pa.array([None, "\0"]).dictionary_encode(), "TEXT", "row 2 holds a character"),
            ("character zero, item", pa.array([["a", "b"], ["c", "\0"]]), "ARRAY(TEXT)", "row 2 holds a character"),
            ("not UTF-8", pa.array([None, b"a\xff"]).view(pa.string()), "TEXT", "row 2 has text"),
            (
                "the year 20000",
                pa.array([None, 6_585_000], pa.date32()),
                "DATE",
                "row 2 holds a time outside the years",
            ),
            (
                "before the year 1",
                pa.array([None, -(2**62)], pa.timestamp("us")),
                "TIMESTAMP",
                "row 2 holds a time out",
            ),
        )
        for file_name in (CHANGE, FULL)
    ],
]


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_case(corpus: Corpus, name: str) -> None:
    corpus.check(name)


def test_nothing_was_unexpected(corpus: Corpus) -> None:
    corpus.check_log()


def test_every_type_of_the_corpus_is_documented_and_every_documented_type_is_in_the_corpus() -> None:
    assert sorted(DOCUMENTED) == sorted(SAMPLES)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_types_are_those_that_the_code_takes(name: str) -> None:
    created, others = DOCUMENTED[name]
    kind, _ = SAMPLES[name]
    assert schema.firebolt_type(kind) == (target_type(created, name) if created else None)
    fits = []
    for target in TARGETS:
        wanted = NUMERIC if target == "NUMERIC" else target
        try:
            schema.cast("f", "v", pa.chunked_array([harmless(name)]), Column("v", wanted), "t")
        except PermanentError:
            continue
        fits.append(target)
    arrays = [other for other in others if other.startswith("ARRAY")]
    assert sorted(others) == sorted({*fits, *arrays} - {created})
