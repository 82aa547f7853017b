"""The two ways by which anything gets into SQL: identifiers are quoted, values are parameters; and two phrases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from firebolt_cdc.config import Config
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


def instant(moment: datetime) -> str:
    """A moment as Firebolt reads a TIMESTAMPTZ."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def read_parquet(config: Config, *, staged: str | None = None, source: str | None = None) -> tuple[str, list[object]]:
    """READ_PARQUET of one object, by its key, with its parameters."""
    place = config.staging if staged is not None else config.source
    key = staged or source
    assert key is not None, "one of staged and source"
    if config.locations is None:
        return "READ_PARQUET(URL => ?)", [f"s3://{place.bucket}/{key}"]
    source_location, staging_location = config.locations
    location = staging_location if staged is not None else source_location
    return "READ_PARQUET(LOCATION => ?, PATTERN => ?)", [location, key.removeprefix(place.prefix)]
