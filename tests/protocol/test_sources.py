"""Sources other than plain DMS: Debezium's flattened changes, Parquet files made by hand, DMS with before-images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from support import Pipeline, parquet, table_config

ORDERS = table_config(
    "orders",
    ["id"],
    files={"path": "topics/orders/", "changes": r"orders\+[0-9]+\+(?P<stamp>[0-9]+)(?:\.snappy)?"},
    order={"by": "number", "column": "__lsn"},
    op={"column": "__op", "insert": ["c", "r"], "update": ["u"], "delete": ["d"]},
    delete_marker={"column": "__deleted", "values": ["true"]},
)
DEBEZIUM = pa.schema(
    [
        ("id", pa.int64()),
        ("state", pa.string()),
        ("__op", pa.string()),
        ("__deleted", pa.string()),
        ("__lsn", pa.int64()),
        ("__ts_ms", pa.int64()),
        ("__source_ts_ms", pa.int64()),
    ]
)


def debezium(*rows: tuple[str, int, str | None, int]) -> bytes:
    """What ExtractNewRecordState writes with delete.tombstone.handling.mode = rewrite: (op, id, state, lsn)."""
    ops, ids, states, lsns = zip(*rows, strict=True)
    columns = {
        "id": ids,
        "state": states,
        "__op": ops,
        "__deleted": ["true" if op == "d" else "false" for op in ops],
        "__lsn": lsns,
        "__ts_ms": [1732449600000] * len(rows),
        "__source_ts_ms": [1732449600000] * len(rows),
    }
    return parquet(columns, DEBEZIUM)


def test_debezium_through_kafka_connect_ends_in_the_order_of_its_log(pipeline: Pipeline) -> None:
    """Snapshot, updates, a delete, a row that comes back, and a changed key, which Debezium writes as `d` and `c`."""
    pipeline.configure(tables={"shop/orders": ORDERS})
    pipeline.migrate()
    parts = {
        "orders+0+0000000000.snappy": [("r", 1, "new", 100), ("r", 2, "new", 100), ("r", 3, "new", 100)],
        "orders+0+0000000003.snappy": [("u", 1, "paid", 200), ("d", 2, None, 210), ("d", 3, None, 220)],
        "orders+0+0000000006.snappy": [("c", 4, "new", 221), ("c", 2, "again", 230), ("u", 1, "sent", 9)],
        "orders+0+0000000999.snappy": [("u", 1, "sent", 1000)],
        "orders+0+0000001000.snappy": [("u", 4, "late", 222)],
    }
    events = [
        pipeline.put(f"topics/orders/partition=0/{name}.parquet", debezium(*rows)) for name, rows in parts.items()
    ]
    for event in [*reversed(events), *events]:
        assert pipeline.deliver(event) == []
    assert pipeline.sql('SELECT "id", "state" FROM orders ORDER BY "id"') == [[1, "sent"], [2, "again"], [4, "late"]]
    columns = {
        r[0] for r in pipeline.sql("SELECT column_name FROM information_schema.columns WHERE table_name = 'orders'")
    }
    assert columns == {"id", "state", "__lsn", "__ts_ms", "__source_ts_ms", "_cdc_seq"}
    assert pipeline.sql.value("SELECT order_format FROM cdc_tables WHERE turn = 'orders'").startswith("number:__lsn ")


def test_a_truncate_of_debezium_fails_the_file_and_names_the_row(pipeline: Pipeline) -> None:
    pipeline.configure(tables={"shop/orders": ORDERS})
    pipeline.migrate()
    name = "topics/orders/orders+0+0000000000.parquet"
    assert pipeline.deliver(pipeline.put(name, debezium(("c", 1, "new", 1), ("t", 0, None, 2)))) == []
    assert pipeline.ledger() == {name: ("failed", "permanent")}
    assert "row 2 has the operation 't', expected one of c, r, u, d" in pipeline.sql.value(
        "SELECT error_message FROM cdc_processed_files"
    )


def test_the_offsets_in_the_names_order_what_its_columns_do_not(pipeline: Pipeline) -> None:
    """Ordered by file: offset 1000 after 999, as numbers, whatever the width of the names."""
    by_offset = ORDERS | {"order": {"by": "file"}, "delete_marker": None}
    by_offset["op"] = {"column": "__op", "insert": ["c", "r"], "update": ["u"], "delete": ["d"]}
    pipeline.configure(tables={"shop/orders": by_offset})
    pipeline.migrate()
    late = pipeline.put("topics/orders/orders+0+1000.parquet", debezium(("u", 1, "late", 1)))
    early = pipeline.put("topics/orders/orders+0+999.parquet", debezium(("u", 1, "early", 2)))
    for event in (late, early):
        assert pipeline.deliver(event) == []
    assert pipeline.sql('SELECT "id", "state" FROM orders') == [[1, "late"]]


def test_a_drop_made_by_hand_is_appended_once_whatever_its_names(pipeline: Pipeline) -> None:
    readings = table_config("readings", files={"path": "drops/readings/", "changes": ".*"})
    special = table_config("special", files={"path": "drops/readings/special/", "changes": ".*"})
    pipeline.configure(tables={"lab/readings": readings, "lab/special": special})
    pipeline.migrate()
    names = {"drops/readings/monday.parquet": 1, "drops/readings/2024/part-0 (copy).parquet": 2}
    events = [pipeline.put(name, parquet({"sensor": [n], "celsius": [20.5]})) for name, n in names.items()]
    events.append(pipeline.put("drops/readings/special/x.parquet", parquet({"sensor": [9]})))
    for event in [*events, *events]:
        assert pipeline.deliver(event) == []
    rows = pipeline.sql('SELECT "sensor", "celsius", "_cdc_op", "_cdc_file" FROM readings ORDER BY "sensor"')
    assert rows == [[n, 20.5, "I", name] for name, n in names.items()]
    assert pipeline.sql('SELECT "sensor" FROM special') == [[9]], "the longest path wins"


def test_a_flag_made_by_hand_deletes_in_a_snapshot_and_in_changes(pipeline: Pipeline) -> None:
    people = table_config(
        "people",
        ["id"],
        files={"path": "people/", "full_load": "all-[0-9]+", "changes": "delta-(?P<stamp>[0-9]+)"},
        delete_marker={"column": "gone", "values": ["1", "true"], "keep": True},
    )
    pipeline.configure(tables={"hr/people": people})
    pipeline.migrate()
    snapshot = pipeline.put("people/all-1.parquet", parquet({"id": [1, 2, 3], "gone": [0, 1, None]}))
    changed = pipeline.put("people/delta-9.parquet", parquet({"id": [3, 4], "gone": [1, 0]}))
    newer = pipeline.put("people/delta-10.parquet", parquet({"id": [3, 1], "gone": [0, 1]}))
    for event in (newer, changed, snapshot):
        assert pipeline.deliver(event) == []
    assert pipeline.sql('SELECT "id", "gone" FROM people ORDER BY "id"') == [[3, 0], [4, 0]]


def dms(*rows: tuple[str, int, str | None, int | None]) -> bytes:
    """Changes with before-images of all columns: (operation, id, name, former id)."""
    ops, ids, names, former = zip(*rows, strict=True)
    columns = {
        "Op": pa.array(ops, pa.string()),
        "id": pa.array(ids, pa.int64()),
        "name": pa.array(names, pa.string()),
        "BI_id": pa.array(former, pa.int64()),
        "BI_name": pa.array([f"was {f}" if f else None for f in former], pa.string()),
    }
    return parquet(columns)


MOVES: list[list[tuple[str, int, str | None, int | None]]] = [
    [("I", 1, "a", None), ("I", 5, "e", None), ("I", 7, "g", None)],
    [("U", 2, "a2", 1), ("I", 1, "new", None), ("U", 7, "g2", 7)],
    [("U", 3, "a3", 2), ("U", 2, "new2", 1), ("U", 6, "e6", 5), ("U", 5, "e5", 6)],
    [("D", 2, None, None), ("I", 8, "h", None), ("U", 9, "h9", 8), ("U", 4, "a4", 3), ("I", 3, "c", None)],
]
"""Files in commit order: keys that move, come back, are taken over at once, and move within one file."""


def played(files: Sequence[Sequence[tuple[str, int, str | None, int | None]]]) -> list[list[Any]]:
    """What the source holds after these changes, one after another."""
    rows: dict[int, str | None] = {}
    for op, key, name, former in itertools.chain.from_iterable(files):
        if former is not None:
            rows.pop(former, None)
        if op == "D":
            rows.pop(key, None)
        else:
            rows[key] = name
    return [[key, rows[key]] for key in sorted(rows)]


def moving(pipeline: Pipeline, **settings: Any) -> list[dict[str, Any]]:
    """A pipeline whose table has before-images, with the four files in its bucket; returns their events."""
    pipeline.configure(tables={"fair/t": table_config("t", ["id"], before_image={}, **settings)})
    pipeline.migrate()
    return [pipeline.put(f"fair/t/20241124-{n}.parquet", dms(*rows)) for n, rows in enumerate(MOVES, 1)]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_keys_move_alike_in_any_order_of_files(pipeline: Pipeline, order: tuple[int, ...]) -> None:
    """All 24 orders, and random histories, in tests/unit/test_stage.py."""
    events = moving(pipeline)
    for number in (*order, order[0]):
        assert pipeline.deliver(events[number]) == []
    assert pipeline.sql('SELECT "id", "name" FROM t ORDER BY "id"') == played(MOVES)
    columns = [r[0] for r in pipeline.sql("SELECT column_name FROM information_schema.columns WHERE table_name = 't'")]
    assert sorted(columns) == ["_cdc_seq", "id", "name"]


def test_keys_move_alike_in_batches(pipeline: Pipeline) -> None:
    events = moving(pipeline)
    assert pipeline.deliver(events[3], events[1]) == []
    assert pipeline.deliver(events[0], events[2]) == []
    assert pipeline.sql('SELECT "id", "name" FROM t ORDER BY "id"') == played(MOVES)


def test_ignored_deletes_leave_rows_but_no_row_under_two_keys(pipeline: Pipeline) -> None:
    events = moving(pipeline, deletes="ignore")
    for event in reversed(events):
        assert pipeline.deliver(event) == []
    kept = [[row for row in rows if row[0] != "D"] for rows in MOVES]
    assert pipeline.sql('SELECT "id", "name" FROM t ORDER BY "id"') == played(kept)


def test_a_soft_delete_flags_the_old_key_with_the_values_it_had(pipeline: Pipeline) -> None:
    pipeline.configure(tables={"fair/t": table_config("t", ["id"], before_image={}, deletes="soft")})
    pipeline.migrate()
    for number, row in enumerate([("I", 1, "was 1", None), ("U", 2, "b", 1)], 1):
        assert pipeline.deliver(pipeline.put(f"fair/t/20241124-{number}.parquet", dms(row))) == []
    assert pipeline.sql('SELECT "id", "name", "_cdc_deleted" FROM t ORDER BY "id"') == [
        [1, "was 1", True],
        [2, "b", False],
    ]
