"""Columns that come, go and change, under each policy."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from corpus.harness import CHANGE, FULL, LATER, Case, Corpus, file

TWO = '"id" BIGINT NOT NULL, "v" TEXT'
OLD = "(1, 'old'), (2, 'old')"
NO_COLUMN = (
    'the target t[0-9]+ has no "{0}" {1}, and schema_drift is fail; '
    'run: ALTER TABLE "t[0-9]+" ADD COLUMN IF NOT EXISTS "{0}" {1} NULL; then run `firebolt-cdc retry`'
)
BOTH = {"change": CHANGE, "full": FULL}


def left_out(name: str, type_: str = "") -> str:
    """What the log says of a column that `ignore` leaves out, with the DDL that would keep it, if there is any."""
    return f'{name} ALTER TABLE "{{table}}" ADD COLUMN IF NOT EXISTS "{name}" {type_} NULL' if type_ else f"{name} None"


def misfit(have: str, column: str, reason: str = "", new: str = "") -> str:
    """The message of a column `v` whose values do not fit, with the way out: a wider column, or none."""
    way = "load the table into a target that fits, or leave the column out"
    if new:
        way = (
            f'run, in one transaction: ALTER TABLE "t[0-9]+" ADD COLUMN "v_new" {re.escape(new)} NULL; .*'
            'RENAME COLUMN "v_new" TO "v"'
        )
    what = f"the column 'v' of type {re.escape(have)} does not fit the target's 'v' {re.escape(column)}"
    return f"{what}{reason and ': .*'}{reason}.*; {way}; then run `firebolt-cdc retry`"


def by_policy(policy: str) -> list[Case]:
    """The same drift under one policy, as changes and as a full load."""
    cases: list[Case] = []
    adds, fails = policy == "add", policy == "fail"
    for kind, name in BOTH.items():

        def case(what: str, given: dict[str, Any], kind: str = kind, name: str = name, **more: Any) -> None:
            more = {"before": TWO, "table": {"schema_drift": policy}} | more
            cases.append(Case(f"{what}, {policy}, {kind}", {name: {"Op": ["I"]} | given}, **more))

        case(
            "added",
            {"id": [1], "v": ["a"], "w": [5]},
            rows=[] if fails else [[1, "a"]],
            failed=NO_COLUMN.format("w", "BIGINT") if fails else "",
            columns={"id": "BIGINT", "v": "TEXT"} | ({"w": "BIGINT"} if adds else {}),
            left_out=() if adds or fails else (left_out("w", "BIGINT"),),
        )
        case(
            "renamed",
            {"id": [1], "name": ["a"]},
            rows=[[1, "old" if fails or kind == "full" else None], [2, "old"]],
            failed=NO_COLUMN.format("name", "TEXT") if fails else "",
            filled=OLD,
            columns={"id": "BIGINT", "v": "TEXT"} | ({"name": "TEXT"} if adds else {}),
            left_out=() if adds or fails else (left_out("name", "TEXT"),),
        )
        case("dropped", {"id": [1]}, rows=[[1, None if kind == "change" else "old"], [2, "old"]], filled=OLD)
        case("in another case", {"ID": [1], "V": ["a"]}, rows=[[1, "a"]], columns={"id": "BIGINT", "v": "TEXT"})
        case(
            "two in different case",
            {"id": [1], "v": ["a"], "V": ["b"]},
            rows=[] if fails else [[1, "a"]],
            failed=NO_COLUMN.format("V", "TEXT") if fails else "",
            columns={"id": "BIGINT", "v": "TEXT"} | ({"V": "TEXT"} if adds else {}),
            left_out=() if adds or fails else (left_out("V", "TEXT"),),
        )
        case(
            "two for one",
            {"id": [1], "V": ["a"], "Vv": ["b"], "VV": ["c"]},
            before=TWO + ', "vv" TEXT',
            rows=[],
            failed="two columns of the file mean the target's 'vv'",
        )
        case("reordered", {"v": ["a"], "id": [1]}, rows=[[1, "a"]])
        case(
            "wider than fits",
            {"id": [1], "v": [2**31]},
            before='"id" BIGINT, "v" INTEGER',
            rows=[],
            failed=misfit("BIGINT", "INTEGER", "value 2147483648", "BIGINT"),
        )
        case(
            "more digits than fit",
            {"id": [1], "v": numbers("5.001", digits=9, scale=3)},
            before='"id" BIGINT, "v" NUMERIC(9, 2)',
            rows=[],
            failed="would cause data loss.*" + re.escape('ADD COLUMN "v_new" NUMERIC(10, 3)'),
        )
        case(
            "a type that Firebolt lacks",
            {"id": [1], "v": ["a"], "s": [{"a": 1}]},
            before="",
            rows=None if adds or fails else [[1, "a"]],
            failed="'s' has the type struct.*, which Firebolt cannot hold" if adds or fails else "",
            left_out=() if adds or fails else (left_out("s"),),
        )
        case(
            "a new one of a type that Firebolt lacks",
            {"id": [1], "v": ["a"], "s": [{"a": 1}]},
            rows=[] if adds or fails else [[1, "a"]],
            failed="'s' has the type struct.*, which Firebolt cannot hold" if adds or fails else "",
            left_out=() if adds or fails else (left_out("s"),),
        )
    return cases


def numbers(*values: str, digits: int, scale: int) -> pa.Array:
    return pa.array([Decimal(v) for v in values], pa.decimal128(digits, scale))


def types(what: str, column: pa.Array, target: str, rows: list[Any] | None, failed: str = "") -> list[Case]:
    """A column whose type is not the target's; every value must fit."""
    found = [] if rows is None else [[n, value] for n, value in enumerate(rows)]
    ids = list(range(len(column)))
    return [
        Case(f"{what}, {kind}", {name: {"id": ids, "v": column}}, found, failed, before=f'"id" BIGINT, "v" {target}')
        for kind, name in BOTH.items()
    ]


def on_both(name: str, given: dict[str, Any], *arguments: Any, **more: Any) -> list[Case]:
    return [Case(f"{name}, {kind}", {file_name: given}, *arguments, **more) for kind, file_name in BOTH.items()]


TIMES = {"at": pa.array([5], pa.time64("us"))}
"""What makes the loader rewrite a full load."""
NOON = datetime(2024, 1, 2, 12, 0, 0, 5)
CASES = [
    *by_policy("add"),
    *by_policy("fail"),
    *by_policy("ignore"),
    *on_both("reordered", {"v": ["a"], "id": [1], "Op": ["I"]}, [[1, "a"]], before=TWO),
    *on_both("Op absent", {"id": [1], "v": ["a"]}, [[1, "a"]]),
    *on_both(
        "op in small letters", {"op": ["I"], "id": [1], "v": ["a"]}, [[1, "a"]], columns={"id": "BIGINT", "v": "TEXT"}
    ),
    *on_both("Op beside op", {"Op": ["I"], "op": ["buy"], "id": [1]}, [[1, "buy"]], select='"id", "op"'),
    *on_both(
        "OP beside op", {"OP": ["D"], "op": ["buy"], "id": [1]}, failed=r"\['OP', 'op'\] could each be the operation"
    ),
    *on_both(
        "a source's own op", {"op": ["buy"], "id": [1]}, failed="row 1 has the operation 'buy', expected one of I, U, D"
    ),
    Case("a source's own op of D", {FULL: {"op": ["I", "D"], "id": [1, 2]}}, failed="has the operation 'D' in 'op'"),
    *on_both("Op as number", {"Op": [1], "id": [1]}, failed="row 1 has the operation '1', expected one of I, U, D"),
    *on_both("our own name", {"id": [1], "_cdc_seq": ["a"]}, failed="'_cdc_seq' is reserved"),
    *on_both("no name", {"id": [1], "": ["a"]}, failed="'' cannot be the name"),
    *on_both("a name that the SDK misreads", {"id": [1], "a\\": [1]}, failed=r"'a.*' cannot be the name"),
    *on_both("a key named #", {"#": [1], "v": ["a"]}, [[1, "a"]], key=("#",), select='"#", "v"'),
    *on_both(
        "odd names",
        {"id": [1]}
        | {name: ["x"] for name in ("q\"u'o`", "a b", "a;", "a\nb", "日本🎉", "select", "a.b", "?", "--", "$1")},
        [[1, *"xxxxxxxxxx"]],
        select='"id", "q""u\'o`", "a b", "a;", "a\nb", "日本🎉", "select", "a.b", "?", "--", "$1"',
    ),
    *on_both("300 columns", {"id": [1], "v": ["a"]} | {f"column_{n}": [n] for n in range(300)}, [[1, "a"]]),
    *types("widened within", pa.array([2**31 - 1, None]), "INTEGER", [2**31 - 1, None]),
    *types(
        "widened beyond", pa.array([2**31]), "INTEGER", None, misfit("BIGINT", "INTEGER", "value 2147483648", "BIGINT")
    ),
    *types("narrowed", pa.array([7], pa.int16()), "BIGINT", [7]),
    *types("unsigned within", pa.array([2**63 - 1], pa.uint64()), "BIGINT", [2**63 - 1]),
    *types(
        "unsigned beyond",
        pa.array([2**63], pa.uint64()),
        "BIGINT",
        None,
        misfit("NUMERIC(20, 0)", "BIGINT", "value 9223372036854775808", "NUMERIC(20, 0)"),
    ),
    *types("to a whole double", pa.array([2**53]), "DOUBLE PRECISION", [2.0**53]),
    *types(
        "to no double",
        pa.array([2**53 + 1]),
        "DOUBLE PRECISION",
        None,
        misfit("BIGINT", "DOUBLE PRECISION", "9007199254740993"),
    ),
    *types("double to real", pa.array([1.5, float("nan"), float("-inf")]), "REAL", [1.5, float("nan"), float("-inf")]),
    *types("double to no real", pa.array([0.1]), "REAL", None, "a value needs more digits than REAL has"),
    *types("doubles to no reals", pa.array([[0.1]]), "ARRAY(REAL)", None, "a value needs more digits than REAL has"),
    *types("more digits", numbers("5.01", digits=10, scale=2), "NUMERIC(38, 10)", [Decimal("5.0100000000")]),
    *types("fewer digits", numbers("-5.01", digits=38, scale=10), "NUMERIC(10, 2)", [Decimal("-5.01")]),
    *types("fewer than needed", numbers("5.001", digits=9, scale=3), "NUMERIC(9, 2)", None, "would cause data loss"),
    *types(
        "larger than fits", numbers("1000", digits=9, scale=0), "NUMERIC(5, 2)", None, r"does not fit .*NUMERIC\(5, 2\)"
    ),
    *types("whole numbers", numbers("5.0", digits=9, scale=1), "BIGINT", [5]),
    *types("broken numbers", numbers("5.5", digits=9, scale=1), "BIGINT", None, "would cause data loss"),
    *types(
        "decimal to double",
        numbers("5.5", digits=9, scale=1),
        "DOUBLE PRECISION",
        None,
        misfit("NUMERIC(9, 1)", "DOUBLE PRECISION"),
    ),
    *types("text to number", pa.array(["7"]), "BIGINT", None, misfit("TEXT", "BIGINT", new="TEXT")),
    *types("number to text", pa.array([7]), "TEXT", ["7"]),
    *types(
        "decimal to text",
        numbers("0", "0.0000001", "-12.5", digits=38, scale=10),
        "TEXT",
        ["0.0000000000", "0.0000001000", "-12.5000000000"],
    ),
    *types("double to text", pa.array([1.0, 0.1]), "TEXT", ["1", "0.1"]),
    *types("time to text", pa.array([NOON]), "TEXT", ["2024-01-02 12:00:00.000005"]),
    *types("zone to text", pa.array([NOON], pa.timestamp("us", "UTC")), "TEXT", ["2024-01-02 12:00:00.000005Z"]),
    *types("zone lost", pa.array([NOON], pa.timestamp("us", "UTC")), "TIMESTAMP", [NOON]),
    *types("zone gained", pa.array([NOON]), "TIMESTAMPTZ", [NOON.replace(tzinfo=UTC)]),
    *types("time to date", pa.array([NOON]), "DATE", None, misfit("TIMESTAMP", "DATE", new="TIMESTAMP")),
    *types(
        "nanoseconds that matter",
        pa.array([1001], pa.timestamp("ns")),
        "TIMESTAMP",
        None,
        misfit("TIMESTAMP", "TIMESTAMP", "would lose data: 1001"),
    ),
    *types("null to NOT NULL", pa.array(["a", None]), "TEXT NOT NULL", None, "row 2 has no value for the target's 'v'"),
    *[
        Case(
            f"INT96, {name}", {name: file({"id": [1], "v": [NOON]}, use_deprecated_int96_timestamps=True)}, [[1, NOON]]
        )
        for name in (CHANGE, FULL)
    ],
    *[
        Case(
            f"INT96 of the year 9999, {name}",
            {name: file({"id": [1], "v": [NOON.replace(year=9999)]}, use_deprecated_int96_timestamps=True)},
            failed=misfit("TIMESTAMP", "TIMESTAMP", "Casting from timestamp.ns. to timestamp.us. would lose data"),
        )
        for name in (CHANGE, FULL)
    ],
    Case(
        "a delete needs no values",
        {CHANGE: {"Op": ["I", "D"], "id": [1, 2], "v": ["a", None]}},
        [[1, "a"]],
        before='"id" BIGINT, "v" TEXT NOT NULL',
        filled="(2, 'old')",
    ),
    *on_both(
        "a column with a default is dropped",
        {"id": [1]},
        [[1, 7]],
        before='"id" BIGINT, "v" INTEGER NOT NULL DEFAULT 7',
    ),
    *on_both(
        "a NOT NULL column is dropped",
        {"id": [1]},
        [],
        r"lacks \['v'\], .*NOT NULL without default.*DROP COLUMN \"v\".*null value in NOT NULL column 'v'",
        before='"id" BIGINT, "v" INTEGER NOT NULL',
    ),
    Case(
        "a NOT NULL column is dropped, of rows that are only updated",
        {CHANGE: {"Op": ["U"], "id": [1], "w": ["new"]}},
        [[1, 7, "new"]],
        select='"id", "v", "w"',
        before='"id" BIGINT, "v" INTEGER NOT NULL, "w" TEXT',
        filled="(1, 7, 'old')",
    ),
    *[
        case
        for kind, key in (("merged", ("id",)), ("appended", ()))
        for case in (
            *[
                Case(
                    f"a nullable column with a default is dropped, {kind}, {'batches' if batches else 'one batch'}",
                    {CHANGE: {"id": [1], "v": [5]}, LATER: {"id": [2]}},
                    [[1, 5], [2, None]],
                    key=key,
                    before='"id" BIGINT, "v" INTEGER DEFAULT 7',
                    batches=batches,
                )
                for batches in (False, True)
            ],
            *[
                Case(
                    f"a nullable column with a default is dropped, {kind}, {'rewritten ' * len(more)}full load",
                    {FULL: {"id": [1]} | more},
                    [[1, None]],
                    key=key,
                    before='"id" BIGINT, "v" INTEGER DEFAULT 7',
                )
                for more in ({}, TIMES)
            ],
        )
    ],
    *[
        Case(
            f"a NOT NULL column with a default is dropped from one of two, {'batches' if batches else 'one batch'}",
            {CHANGE: {"id": [1, 3], "v": [5, 5]}, LATER: {"id": [1, 2]}},
            [[1, 5], [2, 7], [3, 5]],
            before='"id" BIGINT, "v" INTEGER NOT NULL DEFAULT 7',
            batches=batches,
        )
        for batches in (False, True)
    ],
    *[
        Case(
            f"dropped, rewritten full load{', beside changes that have it' * len(more)}",
            {FULL: {"id": [1]} | TIMES} | more,
            [[1, "old"], [2, "new" if more else "old"]],
            before=TWO,
            filled=OLD,
        )
        for more in ({}, {CHANGE: {"id": [2], "v": ["new"]}})
    ],
    Case(
        "dropped, of a full load that a snapshot's deletes rewrite",
        {FULL: {"id": [1, 2], "gone": [0, 1]}, CHANGE: {"id": [3, 4], "gone": [0, 1], "v": ["new", "new"]}},
        [[1, "old"], [3, "new"]],
        before=TWO,
        filled=OLD,
        table={"delete_marker": {"column": "gone", "values": ["1"]}},
    ),
    Case(
        "wider in the next file of the batch",
        {
            CHANGE: {"id": [1], "v": pa.array([1], pa.int32())},
            LATER: {"id": [2], "v": pa.array([2], pa.int64())},
            "20240103-100000.parquet": {"id": [3], "v": pa.array([2**40], pa.int64())},
        },
        [[1, 1], [2, 2]],
        {"20240103-100000.parquet": misfit("BIGINT", "INTEGER", "value 1099511627776", "BIGINT")},
    ),
    *[
        Case(
            f"new in different case, {'batches' if batches else 'one batch'}",
            {CHANGE: {"id": [1], "new": ["a"]}, LATER: {"id": [2], "NEW": ["b"]}},
            [[1, "a"], [2, "b"]],
            select='"id", "new"',
            columns={"id": "BIGINT", "new": "TEXT"},
            before='"id" BIGINT',
            batches=batches,
        )
        for batches in (False, True)
    ],
    Case(
        "the same columns in other types",
        {
            CHANGE: {"id": pa.array([1], pa.int8()), "v": ["a"]},
            LATER: {"id": [2], "v": pa.array(["b"], pa.large_string())},
        },
        [[1, "a"], [2, "b"]],
        before=TWO,
    ),
]


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_case(corpus: Corpus, name: str) -> None:
    corpus.check(name)


def test_nothing_was_unexpected(corpus: Corpus) -> None:
    corpus.check_log()
