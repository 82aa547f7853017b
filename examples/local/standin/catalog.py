"""Tables, views and locations, and how they look in ``information_schema``.

Pages "Information schema": Tables, Columns, Views, Locations, Transactions, Engines, Engine query history. Columns
that these pages call "not applicable" are present and NULL.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from . import dialect
from .fbtypes import FbType, parse_type


@dataclass(frozen=True)
class Column:
    """One column: encoded name, name of the column that stores it, type, DEFAULT in Firebolt SQL."""

    name: str
    stored: str
    type: FbType
    nullable: bool = True
    default: str | None = None


@dataclass(frozen=True)
class Table:
    """A table; a change makes a new object with the same ``id``."""

    id: int
    name: str
    columns: tuple[Column, ...]
    primary_index: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    dimension: bool = False
    created: str = ""

    def column(self, name: str) -> Column | None:
        """The column of that (encoded) name."""
        return next((c for c in self.columns if c.name == name), None)

    @functools.cached_property
    def ddl(self) -> str:
        """The CREATE TABLE statement."""
        columns = ", ".join(
            f"{dialect.quoted(dialect.decode(c.name))} {c.type}{'' if c.nullable else ' NOT NULL'}"
            + (f" DEFAULT {c.default}" if c.default else "")
            for c in self.columns
        )
        kind = "DIMENSION" if self.dimension else "FACT"
        text = f"CREATE {kind} TABLE {dialect.quoted(dialect.decode(self.name))} ({columns})"
        if self.primary_index:
            text += " PRIMARY INDEX " + ", ".join(dialect.quoted(dialect.decode(c)) for c in self.primary_index)
        return text + (f" PARTITION BY {', '.join(self.partition_by)}" if self.partition_by else "")


@dataclass(frozen=True)
class View:
    """A view: its query in Firebolt SQL, its column names if given, the relations that it reads."""

    name: str
    query: str
    columns: tuple[str, ...]
    depends: tuple[str, ...]
    created: str = ""


@dataclass(frozen=True)
class Location:
    """A location of source AMAZON_S3; credentials are not kept."""

    name: str
    url: str
    description: str | None
    ddl: str
    created: str


Relation = Table | View
Relations = Mapping[str, Relation]


def dump(relations: Relations, locations: Mapping[str, Location]) -> str:
    """The catalog as JSON."""

    def plain(item: Relation) -> dict[str, Any]:
        data = asdict(item)
        data["kind"] = type(item).__name__
        if isinstance(item, Table):
            data["columns"] = [{**asdict(c), "type": str(c.type)} for c in item.columns]
        return data

    return json.dumps(
        {"relations": [plain(r) for r in relations.values()], "locations": [asdict(x) for x in locations.values()]}
    )


def load(text: str) -> tuple[dict[str, Relation], dict[str, Location]]:
    """The catalog that ``dump`` wrote."""
    data = json.loads(text)
    relations: dict[str, Relation] = {}
    for item in data["relations"]:
        kind = item.pop("kind")
        item = {k: tuple(v) if isinstance(v, list) else v for k, v in item.items()}
        if kind == "Table":
            item["columns"] = tuple(Column(**{**c, "type": parse_type(c["type"])}) for c in item["columns"])
            relations[item["name"]] = Table(**item)
        else:
            relations[item["name"]] = View(**item)
    return relations, {x["name"]: Location(**x) for x in data["locations"]}


# ---------------------------------------------------------------- information_schema

_NULLS_COLUMNS = [
    "character_maximum_length",
    "character_octet_length",
    "numeric_precision_radix",
    "interval_type",
    "interval_precision",
    "character_set_catalog",
    "character_set_schema",
    "character_set_name",
    "collation_catalog",
    "collation_schema",
    "collation_name",
    "domain_catalog",
    "domain_schema",
    "domain_name",
    "udt_catalog",
    "udt_schema",
    "udt_name",
    "scope_catalog",
    "scope_schema",
    "scope_name",
    "maximum_cardinality",
    "dtd_identifier",
    "is_self_referencing",
    "is_identity",
    "identity_generation",
    "identity_start",
    "identity_increment",
    "identity_maximum",
    "identity_minimum",
    "identity_cycle",
    "is_generated",
    "generation_expression",
    "is_updatable",
]
_T, _I, _TS, _B = pa.string(), pa.int64(), pa.timestamp("us", tz="UTC"), pa.bool_()


def _schema(texts: str, **others: pa.DataType) -> dict[str, pa.DataType]:
    return {**dict.fromkeys(texts.split(), _T), **others}


#: Name of the view -> its columns and their types.
VIEWS: dict[str, dict[str, pa.DataType]] = {
    "tables": _schema("table_catalog table_schema table_name table_type table_owner", created=_TS, last_altered=_TS)
    | _schema("last_altered_by primary_index", number_of_rows=_I, compressed_bytes=_I, uncompressed_bytes=_I)
    | {
        "compression_ratio": pa.decimal128(38, 9),
        "number_of_tablets": pa.int32(),
        "fragmentation": pa.decimal128(38, 9),
    }
    | _schema(
        "type location_name ddl self_referencing_column_name reference_generation user_defined_type_catalog "
        "user_defined_type_schema user_defined_type_name is_insertable_into is_typed commit_action description"
    ),
    "columns": _schema("table_catalog table_schema table_name column_name", ordinal_position=_I)
    | _schema("column_default is_nullable data_type is_in_partition_expr is_in_primary_index", numeric_precision=_I)
    | _schema("description " + " ".join(_NULLS_COLUMNS)),
    "views": _schema(
        "table_catalog table_schema table_name view_definition check_option is_updatable insertable_into "
        "is_trigger_updatable is_trigger_deletable is_trigger_insertable_into",
        created=_TS,
    )
    | _schema("view_owner", last_altered=_TS)
    | _schema("last_altered_by"),
    "locations": _schema("location_name source url description location_owner", created=_TS) | _schema("ddl"),
    "transactions": _schema("begin_lsn commit_lsn rollback_lsn status user_name", start_time=_TS, end_time=_TS),
    "engines": _schema("engine_name status version url", auto_stop=_I, auto_vacuum=_B, auto_warmup=_B)
    | _schema("type family", nodes=_I, clusters=_I, min_clusters=_I, max_clusters=_I, auto_start=_B)
    | _schema("default_database", initially_stopped=_B, last_started=_TS, last_stopped=_TS)
    | _schema("description", created=_TS)
    | _schema("engine_owner last_altered_by release_channel", last_altered=_TS, fbu_rate=pa.decimal128(38, 9)),
    "engine_query_history": _schema(
        "account_name user_name login_name service_account_name", submitted_time=_TS, start_time=_TS, end_time=_TS
    )
    | _schema("status request_id query_id query_label query_text query_text_normalized telemetry error_message")
    | _schema("query_text_normalized_hash transaction_begin_lsn", duration_us=_I, e2e_duration_us=_I)
    | dict.fromkeys(
        [
            "scanned_rows",
            "scanned_bytes",
            "scanned_cache_bytes",
            "scanned_storage_bytes",
            "inserted_rows",
            "inserted_bytes",
            "spilled_bytes",
            "peak_memory_bytes",
            "returned_rows",
            "returned_bytes",
            "time_in_queue_us",
            "retries",
        ],
        _I,
    )
    | dict.fromkeys(("node_ordinal", "cluster_ordinal", "number_of_clusters"), pa.int32()),
}


def arrow(view: str, rows: list[dict[str, Any]]) -> pa.Table:
    """The rows of one view as an Arrow table with the documented columns."""
    return pa.Table.from_pylist(rows, schema=pa.schema(list(VIEWS[view].items())))


def column_rows(relations: Relations, database: str) -> list[dict[str, Any]]:
    """Rows of information_schema.columns."""
    rows = []
    for table in relations.values():
        if not isinstance(table, Table):
            continue
        partition = " ".join(table.partition_by)
        for position, column in enumerate(table.columns, 1):
            name = dialect.decode(column.name)
            rows.append(
                {
                    "table_catalog": database,
                    "table_schema": "public",
                    "table_name": dialect.decode(table.name),
                    "column_name": name,
                    "ordinal_position": position,
                    "column_default": column.default,
                    "is_nullable": "YES" if column.nullable else "NO",
                    "data_type": str(column.type),
                    "is_in_partition_expr": "YES" if name in partition else "NO",
                    "is_in_primary_index": "YES" if column.name in table.primary_index else "NO",
                    "numeric_precision": column.type.args[0] if column.type.args else None,
                }
            )
    return rows
