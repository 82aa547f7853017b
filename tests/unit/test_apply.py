"""What loads read of the engine's catalogue."""

from __future__ import annotations

from typing import Any, cast

import duckdb

from firebolt_cdc.apply import target_columns
from firebolt_cdc.engine import Engine
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
