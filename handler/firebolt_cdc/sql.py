"""The two ways by which anything gets into SQL: identifiers are quoted here, values are always parameters."""

from __future__ import annotations

from collections.abc import Sequence

from firebolt_cdc.errors import PermanentError


def ident(name: str) -> str:
    """Quote an identifier. A double quote inside is doubled.

    Refused are empty names, NUL, what is no UTF-8, and a backslash before a quote or at the end, after which the SDK
    (sqlparse) does not see the name's end and fills in, or splits at, what stands inside of it.
    """
    if not name or "\0" in name or '\\"' in f'{name}"' or any("\ud800" <= c <= "\udfff" for c in name):
        raise PermanentError(f"{name!r} cannot be the name of a table or column")
    return '"' + name.replace('"', '""') + '"'


def idents(names: Sequence[str], prefix: str = "") -> str:
    """Quote several, comma-separated, each with `prefix` (such as `s.`)."""
    return ", ".join(prefix + ident(name) for name in names)


def marks(values: Sequence[object]) -> str:
    """As many parameter marks as values: for IN lists and VALUES tuples."""
    return ", ".join("?" for _ in values)
