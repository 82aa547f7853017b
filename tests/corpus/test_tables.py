"""Tables: keys, targets that are missing or filled, names, and tables that nobody listed."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from corpus.harness import CHANGE, FULL, LATER, Case, Corpus
from firebolt_cdc import files
from standin import StandIn
from support import Pipeline, parquet, table_config, use_aws

TWO = '"id" BIGINT NOT NULL, "v" TEXT'
PAIR = {"a": [1, 1], "b": ["x", "y"], "v": ["p", "q"]}
NULL_KEY = "row 2 has no value in the primary key column '{}'"
KEYS: dict[str, tuple[list[Any], Any]] = {
    "text": (["", "a"], "a"),
    "decimals": ([Decimal("1.50"), Decimal("2.00")], Decimal("2.00")),
    "dates": ([date(1, 1, 1), date(9999, 12, 31)], date(9999, 12, 31)),
    "moments": ([datetime(1969, 1, 1), datetime(2024, 1, 1, 0, 0, 0, 5)], datetime(2024, 1, 1, 0, 0, 0, 5)),
    "instants": (
        [datetime(1969, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)],
        datetime(2024, 1, 1, tzinfo=UTC),
    ),
    "times": ([time(1, 2, 3), time(4, 5, 6, 7)], "04:05:06.000007"),
    "bytes": ([b"\0", b"\xff"], b"\xff"),
    "doubles": ([0.1, 1e300], 1e300),
}
"""Two keys, and the second as it is read back."""


def key_of(kind: str) -> Case:
    """A full load, changes, the full load's rows again and late: what was deleted stays away, of whatever type."""
    ids, kept = KEYS[kind]
    return Case(
        f"a key of {kind}",
        {
            FULL: {"id": ids, "v": ["a", "b"]},
            CHANGE: {"Op": ["D", "U"], "id": ids, "v": [None, "new"]},
            "LOAD00000002.parquet": {"id": ids, "v": ["late", "late"]},
        },
        [[kept, "new"]],
        batches=True,
    )


def named(target: str) -> Case:
    return Case(
        f"target {target[:20]}",
        {FULL: {"id": [1, 2], "v": ["a", "b"]}, CHANGE: {"Op": ["U", "D"], "id": [1, 2], "v": ["new", None]}},
        [[1, "new"]],
        target=target,
    )


CASES = [
    *[key_of(kind) for kind in KEYS],
    *[
        named(name)
        for name in ("Mixed Case", "select", "q\"uo'te", "日本🎉", "tables", "a.b", "semi;--", "?", "x" * 100)
    ],
    *[
        case
        for kind, name in (("changes", CHANGE), ("full load", FULL))
        for case in (
            Case(f"composite key, {kind}", {name: PAIR}, [[1, "x"], [1, "y"]], key=("a", "b"), select='"a", "b"'),
            Case(
                f"null in a composite key, {kind}",
                {name: PAIR | {"b": ["x", None]}},
                failed=NULL_KEY.format("b"),
                key=("a", "b"),
            ),
            Case(f"null in a key, {kind}", {name: {"id": [1, None]}}, failed=NULL_KEY.format("id")),
            Case(
                f"no such key, {kind}",
                {name: {"x": [1]}},
                failed=r"primary key column\(s\) \['id'\] are not in the file",
            ),
            Case(f"key in another case, {kind}", {name: {"ID": [1], "v": ["a"]}}, [[1, "a"]], before=TWO),
            Case(
                f"key in another case, created, {kind}",
                {name: {"ID": [1]}},
                failed=r"which has \['ID'\]; correct primary_key",
            ),
            Case(
                f"key configured in another case, {kind}",
                {name: {"id": [1]}},
                [],
                r"\['ID'\] are not in the file",
                before=TWO,
                key=("ID",),
            ),
            Case(
                f"missing, fail, {kind}",
                {name: {"id": [1]}},
                failed="does not exist and missing_table is fail",
                table={"missing_table": "fail"},
            ),
            Case(
                f"missing, create, {kind}",
                {name: {"id": [1], "v": ["a"]}},
                [[1, "a"]],
                columns={"id": "BIGINT", "v": "TEXT"},
            ),
            Case(
                f"filled, {kind}",
                {name: {"id": [1, 3], "v": ["new", "c"]}},
                [[1, "new"], [2, "old"], [3, "c"]],
                before=TWO,
                filled="(1, 'old'), (2, 'old')",
            ),
            Case(
                f"filled with duplicates, {kind}",
                {name: {"id": [1], "v": ["new"]}},
                [[1, "new"], [1, "new"], [2, "x"]],
                before=TWO,
                filled="(1, 'old'), (1, 'older'), (2, 'x')",
            ),
            Case(
                f"filled with a null key, {kind}",
                {name: {"id": [1], "v": ["new"]}},
                [[1, "new"], [None, "n"]],
                before='"id" BIGINT, "v" TEXT',
                filled="(1, 'old'), (NULL, 'n')",
            ),
            Case(
                f"without key, filled, {kind}",
                {name: {"id": [1], "v": ["a"]}},
                [[1, "I"], [2, None]],
                key=(),
                before=TWO,
                filled="(2, 'old')",
                select='"id", "_cdc_op"',
            ),
        )
    ],
    Case(
        "a key twice, full load",
        {FULL: {"id": [1, 1]}},
        failed="2 rows have the primary key id = 1; correct primary_key",
    ),
    Case("a key twice, changes", {CHANGE: {"id": [1, 1], "v": ["a", "b"]}}, [[1, "b"]]),
    Case(
        "deleted from a filled target",
        {CHANGE: {"Op": ["D"], "id": [1], "v": [None]}},
        [[2, "x"]],
        before=TWO,
        filled="(1, 'old'), (1, 'older'), (2, 'x')",
    ),
    Case(
        "without key",
        {CHANGE: {"Op": ["I", "U", "D"], "id": [1, 1, 1]}},
        [[1, "D"], [1, "I"], [1, "U"]],
        key=(),
        select='"id", "_cdc_op"',
    ),
    Case(
        "changes again in new files",
        {
            CHANGE: {"Op": ["I", "U", "D"], "id": [1, 1, 2], "v": ["a", "b", None]},
            LATER: {"Op": ["I", "U", "D", "I"], "id": [1, 1, 2, 3], "v": ["a", "b", None, "c"]},
        },
        [[1, "b"], [3, "c"]],
        batches=True,
    ),
    Case(
        "changes again in new files, without key",
        {CHANGE: {"id": [1]}, LATER: {"id": [1]}},
        [[1, "I"], [1, "I"]],
        key=(),
        select='"id", "_cdc_op"',
    ),
]


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_case(corpus: Corpus, name: str) -> None:
    corpus.check(name)


def test_nothing_was_unexpected(corpus: Corpus) -> None:
    corpus.check_log()


UNLISTED = {
    "fail": ("failed", "permanent", "the table other/things is not in the table map; add it to `tables`"),
    "skip": ("skipped", "permanent", "the table other/things is not in the table map and such files are skipped"),
    "append": ("completed", None, ""),
}


def test_unlisted_tables_and_equal_names_in_two_schemas(aws: str) -> None:
    use_aws(aws)
    with StandIn(s3_endpoint=aws) as engine:
        tables = {"one/things": table_config("one_things", ["id"]), "two/things": table_config("two_things", ["id"])}
        pipeline = Pipeline(engine.url, tables)
        pipeline.migrate()
        for number, (policy, expected) in enumerate(UNLISTED.items()):
            pipeline.configure(unlisted_tables=policy)
            files = [
                pipeline.put(f"{schema}/things/2024010{number + 1}-1.parquet", parquet({"id": [1], "v": [schema]}))
                for schema in ("one", "two", "other")
            ]
            assert pipeline.deliver(*files) == []
            [[status, failure, message]] = pipeline.sql(
                "SELECT status, error_class, error_message FROM cdc_processed_files WHERE file_key LIKE ?",
                f"other/things/2024010{number + 1}%",
            )
            assert (status, failure) == expected[:2]
            assert expected[2] in (message or "")
        assert pipeline.sql("SELECT * FROM one_things")[0][:2] == [1, "one"]
        assert pipeline.sql("SELECT * FROM two_things")[0][:2] == [1, "two"]
        more = pipeline.put("more/things/20240103-1.parquet", parquet({"id": [1], "v": ["more"]}))
        odd = [
            pipeline.put(f"{table}/20240103-1.parquet", parquet({"id": [1], "v": ["odd"]}))
            for table in ("other__x/things", "other/x__things")
        ]
        assert pipeline.deliver(more, *odd) == []
        for schema in ("other", "more"):
            assert pipeline.sql(f'SELECT "id", "v", "_cdc_op", "_cdc_file" FROM {schema}__things') == [
                [1, schema, "I", f"{schema}/things/20240103-1.parquet"]
            ]
        refused = "SELECT status, error_class FROM cdc_processed_files WHERE error_message LIKE ?"
        assert (
            pipeline.sql(refused, "%would load into other__x__things, a name that other tables could have too%")
            == [["failed", "permanent"]] * 2
        )
        tables_there = {row[0] for row in pipeline.sql("SELECT table_name FROM information_schema.tables")}
        assert tables_there.isdisjoint({"things", "other__x__things"})
        pipeline.configure(tables={"one/things": table_config("renamed", ["id"])}, unlisted_tables="fail")
        pipeline.migrate()
        assert pipeline.deliver(pipeline.put("one/things/20240104-1.parquet", parquet({"id": [2], "v": ["b"]}))) == []
        assert pipeline.sql('SELECT "id", "v" FROM renamed') == [[2, "b"]], "a renamed target begins empty"
        pipeline.sql.close()


def test_two_pipelines_do_not_share_the_target_of_an_unlisted_table(aws: str) -> None:
    use_aws(aws)
    with StandIn(s3_endpoint=aws) as engine:
        tables = {"x/x": table_config("x1", ["id"]), "s/listed": table_config("s__mine", ["id"])}
        first = Pipeline(engine.url, tables, unlisted_tables="append")
        first.migrate()
        assert first.deliver(first.put("s/t/20240101-1.parquet", parquet({"id": [1]}))) == []
        second = Pipeline(engine.url, {"x/x": table_config("x2", ["id"])}, unlisted_tables="append")
        second.migrate()
        events = [second.put(f"s/{name}/20240101-2.parquet", parquet({"id": [2]})) for name in ("t", "mine", "u")]
        assert second.deliver(*events) == []
        lines = second.sql(
            "SELECT file_key, status, error_class, error_message FROM cdc_processed_files WHERE pipeline LIKE ? "
            "ORDER BY file_key",
            f"{second.bucket}/%",
        )
        assert [(line[1], line[2]) for line in lines] == [("failed", "permanent")] * 2 + [("completed", None)]
        for line in lines[:2]:
            assert f"belongs to the pipeline {first.bucket}/" in line[3]
        assert second.sql('SELECT "id" FROM s__t') == [[1]]
        assert second.sql('SELECT "id" FROM s__u') == [[2]]
        second.configure(
            tables={"x/x": table_config("x2", ["id"]), "s/t": table_config("t2"), "s/mine": table_config("m2")}
        )
        second.migrate()
        second.sql("UPDATE cdc_processed_files SET status = 'pending' WHERE status = 'failed'")
        assert second.deliver(*events) == []
        assert set(second.ledger().values()) == {("completed", None)}, "with a target of its own it is loaded"
        first.sql.close()
        second.sql.close()


def test_what_an_unlisted_table_had_before_its_target_named_the_schema(
    aws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/upgrade.md says: listed with the old target it goes on there; left unlisted it begins anew, complete."""
    use_aws(aws)
    with StandIn(s3_endpoint=aws) as engine:
        pipeline = Pipeline(engine.url, {"x/x": table_config("x", ["id"])}, unlisted_tables="append")
        pipeline.migrate()
        keys = [f"{schema}/orders/2024010{day}-1.parquet" for day in (1, 2) for schema in ("hr", "sales")]
        events = [pipeline.put(key, parquet({"id": [n], "v": [key[:2]]})) for n, key in enumerate(keys)]
        with monkeypatch.context() as patch:
            patch.setattr(files, "_unlisted_target", lambda config, version, source_table: source_table.split("/")[1])
            assert pipeline.deliver(*events[:2]) == []
        rows = 'SELECT "_cdc_file" FROM {} ORDER BY 1'
        assert pipeline.sql(rows.format("orders")) == [[keys[0]], [keys[1]]], "shared, as it was"
        pipeline.configure(tables={"x/x": table_config("x", ["id"]), "sales/orders": table_config("orders")})
        pipeline.migrate()
        assert pipeline.clean("reconcile")["reconcile"] == {"listed": 4, "missing": 3, "sent": 3}
        pipeline.drain()
        assert pipeline.sql(rows.format("orders")) == [[keys[0]], [keys[1]], [keys[3]]]
        assert pipeline.sql(rows.format("hr__orders")) == [[keys[0]], [keys[2]]]
        assert pipeline.clean("reconcile")["reconcile"] == {"listed": 4, "missing": 0, "sent": 0}
        assert set(pipeline.ledger().values()) == {("completed", None)}
        pipeline.sql.close()
