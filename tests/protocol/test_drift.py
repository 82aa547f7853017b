"""Schema drift: what differs between a file and its target is done, recorded, announced; no column goes in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from support import Pipeline, parquet, table_config

Logs = Callable[[], list[dict[str, Any]]]
FIRST, SECOND, THIRD = (f"fair/sessions/20241124-{n}.parquet" for n in (1, 2, 3))


def changes(pipeline: Pipeline) -> dict[str, str | None]:
    """`schema_change` by file key; both tables must say the same of what is applied."""
    ledger = {r[0]: r[1] for r in pipeline.sql("SELECT file_key, schema_change FROM cdc_processed_files")}
    applied = {r[0]: r[1] for r in pipeline.sql("SELECT file_key, schema_change FROM cdc_applied")}
    assert {key: ledger[key] for key in applied} == applied
    return ledger


def drifts(printed: str) -> int:
    """The metric's sum in the EMF lines that the handler printed."""
    lines = [json.loads(line) for line in printed.splitlines() if '"_aws"' in line]
    return int(sum(sum(line.get("SchemaDrift", [])) for line in lines))


def load(pipeline: Pipeline, key: str, columns: dict[str, Any]) -> dict[str, Any]:
    event = pipeline.put(key, parquet(columns))
    assert pipeline.deliver(event) == []
    return event


def test_a_column_that_comes_and_one_that_goes(
    pipeline: Pipeline, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    load(pipeline, FIRST, {"Op": ["I"], "sid": [1], "user": ["a"]})
    load(pipeline, SECOND, {"Op": ["U"], "SID": [1], "note": ["n"]})
    load(pipeline, THIRD, {"Op": ["U"], "sid": [1], "user": ["b"], "note": ["m"]})
    add = 'ALTER TABLE "sessions" ADD COLUMN IF NOT EXISTS "note" TEXT NULL'
    create = 'CREATE TABLE IF NOT EXISTS "sessions" ("sid" BIGINT NOT NULL, "user" TEXT NULL, "_cdc_seq" TEXT NULL)'
    assert changes(pipeline) == {
        FIRST: f'created the table ({create} PRIMARY INDEX "sid")',
        SECOND: f'added "note" TEXT ({add}); absent from the file: "user" (NULL in the rows that it writes); '
        '"SID" means "sid"',
        THIRD: None,
    }
    [said] = [line for line in logs() if line["message"] == "a column was added"]
    assert (said["table"], said["column"], said["ddl"]) == ("sessions", "note", add)
    assert drifts(capsys.readouterr().out) == 1, "a table that is created is no drift, nor is an absent column"


def test_a_column_that_is_left_out_is_announced_with_the_way_to_keep_it(
    pipeline: Pipeline, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.configure(tables={"fair/sessions": table_config("sessions", ["sid"], schema_drift="ignore")})
    load(pipeline, FIRST, {"Op": ["I"], "sid": [1]})
    odd = pa.array([{"a": 1}], pa.struct([("a", pa.int8())]))
    load(pipeline, SECOND, {"Op": ["I"], "sid": [2], "x": [1], "odd": odd})
    add = 'ALTER TABLE "sessions" ADD COLUMN IF NOT EXISTS "x" BIGINT NULL'
    assert changes(pipeline)[SECOND] == (
        f'left out "x" BIGINT (schema_drift = ignore; to keep it: {add}); '
        'left out "odd" struct<a: int8> (schema_drift = ignore; Firebolt cannot hold it)'
    )
    said = [line for line in logs() if line["message"].startswith("a column was left out")]
    assert [(line["table"], line["column"], line.get("ddl")) for line in said] == [
        ("sessions", "x", add),
        ("sessions", "odd", None),
    ]
    assert drifts(capsys.readouterr().out) == 2
    pipeline.sql(add)
    load(pipeline, THIRD, {"Op": ["I"], "sid": [3], "x": [7]})
    assert pipeline.sql('SELECT "sid", "x" FROM sessions ORDER BY "sid"') == [[1, None], [2, None], [3, 7]]


def test_a_failure_by_drift_names_columns_types_and_ddl_and_that_ddl_is_the_cure(
    pipeline: Pipeline, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.configure(tables={"fair/sessions": table_config("sessions", ["sid"], schema_drift="fail")})
    load(pipeline, FIRST, {"Op": ["I"], "sid": [1]})
    event = load(pipeline, SECOND, {"Op": ["I"], "sid": [2], "a": [1], "b": ["x"]})
    assert pipeline.ledger()[SECOND] == ("failed", "permanent")
    message, change = pipeline.sql(
        "SELECT error_message, schema_change FROM cdc_processed_files WHERE file_key = ?", SECOND
    )[0]
    assert 'has no "a" BIGINT, "b" TEXT' in change
    assert change in message
    [said] = [line for line in logs() if line["message"] == "a file does not fit its target"]
    assert said["ddl"] in message
    assert drifts(capsys.readouterr().out) == 1
    cure(pipeline, said["ddl"], event)
    assert pipeline.sql('SELECT "sid", "a", "b" FROM sessions ORDER BY "sid"') == [[1, None, None], [2, 1, "x"]]
    assert changes(pipeline)[SECOND] is None, "nothing differs any more"


def cure(pipeline: Pipeline, ddl: str, event: dict[str, Any]) -> None:
    for statement in ddl.split("; "):
        pipeline.sql(statement)
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'")
    assert pipeline.deliver(event) == []
    assert set(pipeline.ledger().values()) == {("completed", None)}


def cents(text: str, precision: int, scale: int) -> pa.Array:
    return pa.array([Decimal(text)], pa.decimal128(precision, scale))


MISFITS = [
    (cents("1.50", 10, 2), cents("1.505", 12, 3), Decimal("1.505"), "NUMERIC(12, 3)"),
    (pa.array([1], pa.int32()), pa.array([2**40], pa.int64()), 2**40, "BIGINT"),
    (pa.array([1], pa.int64()), cents("1.5", 5, 1), Decimal("1.5"), "NUMERIC(20, 1)"),
    (pa.array([1.5], pa.float32()), pa.array([0.1], pa.float64()), 0.1, "DOUBLE PRECISION"),
    (pa.array([1], pa.int64()), pa.array(["x"]), "x", "TEXT"),
    (pa.array([19000], pa.date32()), pa.array([1], pa.timestamp("us")), datetime(1970, 1, 1, 0, 0, 0, 1), "TIMESTAMP"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "value", "type_"), MISFITS, ids=[m[3] for m in MISFITS])
def test_values_that_do_not_fit_come_with_the_ddl_that_makes_room(
    pipeline: Pipeline, logs: Logs, old: pa.Array, new: pa.Array, value: object, type_: str
) -> None:
    loads = "fair/sessions/LOAD00000001.parquet", "fair/sessions/LOAD00000002.parquet"
    first, key = loads if type_ == "BIGINT" else (FIRST, SECOND)
    load(pipeline, first, {"Op": ["I"], "sid": [1], "amount": old})
    event = load(pipeline, key, {"Op": ["I"], "sid": [2], "amount": new})
    assert pipeline.ledger()[key] == ("failed", "permanent")
    [said] = [line for line in logs() if line["message"] == "a file does not fit its target"]
    assert type_ in said["ddl"]
    change = changes(pipeline)[key]
    assert said["ddl"] in str(change)
    cure(pipeline, said["ddl"], event)
    assert pipeline.sql('SELECT "amount" FROM sessions WHERE "sid" = 2') == [[value]]


def test_a_key_column_that_does_not_fit_has_no_ddl(pipeline: Pipeline, logs: Logs) -> None:
    load(pipeline, FIRST, {"Op": ["I"], "sid": pa.array([1], pa.int32())})
    load(pipeline, SECOND, {"Op": ["I"], "sid": [2**40]})
    [said] = [line for line in logs() if line["message"] == "a file does not fit its target"]
    assert said.get("ddl") is None
    assert "load the table into a target that fits" in str(changes(pipeline)[SECOND])


def test_what_fits_though_the_types_differ_is_recorded(pipeline: Pipeline) -> None:
    load(pipeline, FIRST, {"Op": ["I"], "sid": [1], "amount": pa.array([Decimal("1.50")], pa.decimal128(10, 2))})
    load(pipeline, SECOND, {"Op": ["I"], "sid": [2], "amount": pa.array([Decimal("2")], pa.decimal128(20, 0))})
    assert changes(pipeline)[SECOND] == '"amount" NUMERIC(20, 0) cast to NUMERIC(10, 2)'


def test_a_target_that_holds_rows_is_given_the_loaders_columns(pipeline: Pipeline) -> None:
    pipeline.sql('CREATE TABLE sessions ("sid" BIGINT NOT NULL, "mine" TEXT, "ours" INTEGER NOT NULL DEFAULT 1)')
    load(pipeline, "fair/sessions/LOAD00000001.parquet", {"sid": [1]})
    assert list(changes(pipeline).values()) == [
        'added "_cdc_seq" TEXT (ALTER TABLE "sessions" ADD COLUMN IF NOT EXISTS "_cdc_seq" TEXT NULL); '
        'absent from the file: "mine" (NULL in the rows that it inserts); '
        'absent from the file: "ours" (NOT NULL: kept, the default in the rows that it inserts)'
    ]


def test_a_hundred_new_columns_fit_into_firebolts_hundred_statements(pipeline: Pipeline) -> None:
    load(pipeline, FIRST, {"Op": ["I"], "sid": [1]})
    load(pipeline, SECOND, {"Op": ["I"], "sid": [2]} | {f"c{number}": [number] for number in range(100)})
    assert pipeline.ledger()[SECOND] == ("completed", None)
    assert pipeline.sql('SELECT "c0", "c99" FROM sessions ORDER BY "sid"') == [[None, None], [0, 99]]
