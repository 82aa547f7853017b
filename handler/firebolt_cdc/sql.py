"""The two ways by which anything gets into SQL: identifiers are quoted here, values are always parameters."""

from __future__ import annotations

from collections.abc import Sequence

from firebolt_cdc.errors import PermanentError


def ident(name: str) -> str:
    """Quote an identifier. A double quote inside is doubled.

    NUL and empty names are refused, and a backslash before a quote, which the SDK reads as an escape.
    """
    quoted = '"' + name.replace('"', '""') + '"'
    if not name or "\0" in name or '\\"' in quoted:
        raise PermanentError(f"{name!r} cannot be the name of a table or column")
    return quoted


def idents(names: Sequence[str], prefix: str = "") -> str:
    """Quote several, comma-separated, each with `prefix` (such as `s.`)."""
    return ", ".join(prefix + ident(name) for name in names)


def marks(values: Sequence[object]) -> str:
    """As many parameter marks as values: for IN lists and VALUES tuples."""
    return ", ".join("?" for _ in values)
