"""What loads read of the engine's catalogue."""

from __future__ import annotations

from typing import Any, cast

import duckdb
import pytest

from firebolt_cdc.apply import needs_copy, target_columns
from firebolt_cdc.config import Table
from firebolt_cdc.engine import Engine
from firebolt_cdc.files import FileVersion, Kind, SourceFile
from firebolt_cdc.schema import Column


class Catalogue:
    """An engine with more than one schema, which the stand-in has not."""

    def __init__(self, statements: str) -> None:
        self._sql = duckdb.connect()
        self._sql.execute(statements)

    def query(self, text: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        return self._sql.execute(text, parameters).fetchall()


def test_a_table_of_the_same_name_in_another_schema_is_another_table() -> None:
    catalogue = Catalogue(
        "CREATE SCHEMA public; CREATE SCHEMA other; CREATE TABLE public.t (id BIGINT NOT NULL, v INTEGER); "
        "CREATE TABLE other.t (id INTEGER, w BIGINT); CREATE TABLE other.u (id BIGINT)"
    )
    engine = cast(Engine, catalogue)
    assert target_columns(engine, "t") == (Column("id", "BIGINT", nullable=False), Column("v", "INTEGER"))
    assert target_columns(engine, "u") == ()


@pytest.mark.parametrize(
    ("part", "copied"),
    [("a b+%ü#&=", False), *((sign, True) for sign in ("*", "?", "[x]", "{a,b}", "\\", "'", "\n", "\t"))],
)
def test_a_key_that_the_engine_could_read_as_a_pattern_is_read_through_a_copy(part: str, copied: bool) -> None:
    key = f"p/s/t/{part}/LOAD00000001.parquet"
    table = Table.model_validate({"target": "t", "mode": "append"})
    for kind in Kind:
        file = SourceFile(FileVersion("b", key, "e"), key, "s/t", kind, "", table, "t")
        assert needs_copy(file) is (copied and kind is Kind.FULL)
