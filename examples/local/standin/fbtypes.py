"""Firebolt's types: how they are spelt, printed, stored in DuckDB, and assigned to each other.

Rules: docs.firebolt.io pages "Data types" (aliases, table of conversions) and "NUMERIC data type".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import SqlError, refused


@dataclass(frozen=True)
class FbType:
    """One type; ``args`` are precision and scale of NUMERIC, ``element`` is the type of an array's items."""

    name: str
    args: tuple[int, ...] = ()
    element: FbType | None = None

    def __str__(self) -> str:
        if self.element is not None:
            return f"array({self.element})"
        return f"numeric({self.args[0]}, {self.args[1]})" if self.name == "numeric" else self.name

    @property
    def duckdb(self) -> str:
        """The DuckDB type that holds values of this type."""
        if self.element is not None:
            return f"{self.element.duckdb}[]"
        if self.name == "numeric":
            return f"DECIMAL({self.args[0]},{self.args[1]})"
        return _DUCKDB[self.name]

    @property
    def wire(self) -> str:
        """The type's name in the ``meta`` of a JSON_Compact answer."""
        if self.element is not None:
            return f"array({self.element.wire})"
        return {"real": "float", "double precision": "double"}.get(self.name, str(self))


_DUCKDB = {
    "integer": "INTEGER", "bigint": "BIGINT", "real": "FLOAT", "double precision": "DOUBLE",
    "text": "VARCHAR", "boolean": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE", "bytea": "BLOB", "interval": "INTERVAL", "unknown": "VARCHAR",
}  # fmt: skip
_ALIASES = {
    "int": "integer", "int4": "integer", "long": "bigint", "int8": "bigint", "float4": "real",
    "float": "double precision", "double": "double precision", "float8": "double precision",
    "bool": "boolean", "timestampntz": "timestamp",
}  # fmt: skip
_FROM_DUCKDB = {
    "BOOLEAN": "boolean", "TINYINT": "integer", "SMALLINT": "integer", "INTEGER": "integer",
    "UTINYINT": "integer", "USMALLINT": "integer", "UINTEGER": "bigint", "BIGINT": "bigint",
    "HUGEINT": "bigint", "FLOAT": "real", "DOUBLE": "double precision", "VARCHAR": "text", "BLOB": "bytea",
    "DATE": "date", "TIMESTAMP": "timestamp", "TIMESTAMP_S": "timestamp", "TIMESTAMP_MS": "timestamp",
    "TIMESTAMP_NS": "timestamp", "TIMESTAMP WITH TIME ZONE": "timestamptz", "UUID": "text",
    "INTERVAL": "interval", '"NULL"': "unknown", "NULL": "unknown",
}  # fmt: skip

TEXT = FbType("text")


def parse_type(text: str) -> FbType:
    """The type that ``text`` spells, e.g. ``NUMERIC(38, 9)``, ``ARRAY(TEXT NULL)``, ``int[]``.

    Raises SqlError for a type that Firebolt's documentation does not have or that the stand-in lacks.
    """
    spelled = " ".join(text.split()).lower()
    if spelled.endswith("[]"):
        return FbType("array", element=parse_type(spelled[:-2]))
    if spelled.endswith(" array"):
        return FbType("array", element=parse_type(spelled[:-6]))
    if match := re.fullmatch(r"array ?\((.*)\)", spelled):
        return FbType("array", element=parse_type(re.sub(r"( not)? null$", "", match[1].strip())))
    if match := re.fullmatch(r"(?:numeric|decimal)(?: ?\( ?(\d+) ?(?:, ?(\d+) ?)?\))?", spelled):
        precision = int(match[1] or 38)
        scale = int(match[2]) if match[2] else min(9, precision)
        if not 0 < precision <= 38 or scale > precision:
            raise SqlError(f"NUMERIC({precision}, {scale}): precision is 1 to 38, scale at most the precision")
        return FbType("numeric", (precision, scale))
    name = _ALIASES.get(spelled, spelled)
    if name in ("interval", "unknown") or name not in _DUCKDB:
        raise refused(f"type {text.strip()}")
    return FbType(name)


def from_duckdb(name: str) -> FbType:
    """The Firebolt type of a DuckDB column; SqlError when Firebolt has none (TIME, MAP, UBIGINT ...)."""
    if name.endswith("[]"):
        return FbType("array", element=from_duckdb(name[:-2]))
    if match := re.fullmatch(r"DECIMAL\((\d+),\s*(\d+)\)", name):
        return FbType("numeric", (int(match[1]), int(match[2])))
    if name not in _FROM_DUCKDB:
        raise SqlError(f"type {name} has no counterpart in Firebolt", name="Type Error")
    return FbType(_FROM_DUCKDB[name])


# Page "Data types", table "Type Conversion": from -> types that it may be assigned to. TEXT to a number is
# "Assignm." in that table, but page "Explicit Transactions" (example 4) shows it failing: refused here.
_NUMBERS = {"integer", "bigint", "real", "double precision", "numeric"}
_TIMES = {"date", "timestamp", "timestamptz"}
_ASSIGNABLE = {
    "integer": {"bigint", "real", "double precision", "text", "numeric"},
    "bigint": {"integer", "real", "double precision", "text", "numeric"},
    "real": {"integer", "bigint", "double precision", "text", "numeric"},
    "double precision": {"integer", "bigint", "real", "text", "numeric"},
    "numeric": {"integer", "bigint", "double precision", "text"},
    "text": _TIMES,
    "boolean": {"text"},
    "date": _TIMES | {"text"},
    "timestamp": _TIMES | {"text"},
    "timestamptz": _TIMES | {"text"},
    "bytea": set(),
    "interval": set(),
}  # fmt: skip


def assignable(source: FbType, target: FbType, *, literal: bool, computed: bool, strict: bool) -> bool:
    """Whether a value of ``source`` may be stored in a column of ``target`` without an explicit cast.

    ``literal``: the value is written as a literal, so a number may take any NUMERIC, a string any date,
    time, BYTEA or array. ``computed``: it comes from arithmetic, which keeps a NUMERIC's type in Firebolt but
    widens it in DuckDB, so the source's precision and scale say nothing. ``strict`` false also lets TEXT into
    numbers and NUMERIC into other NUMERICs.
    """
    if source == target or source.name == "unknown":
        return True
    if source.element and target.element:
        return assignable(source.element, target.element, literal=literal, computed=computed, strict=strict)
    if source.name == "numeric" and target.name == "numeric" and (literal or computed or not strict):
        return True
    if source.name == "numeric" and target.name == "real" and (literal or not strict):
        return True
    if source.name == "text" and literal and target.name in ("bytea", "array"):
        return True
    if source.name == "text" and not strict and target.name in _NUMBERS:
        return True
    return target.name in _ASSIGNABLE.get(source.name, set())
