"""What a file is: its identity, its place in the table map, and its rank among the changes of its table.

Names and layout follow the AWS DMS guide, "Using Amazon S3 as a target": `schema/table/[date folders/]file`,
`LOAD` and a hexadecimal counter for full loads, a date and time with a varying number of digits for changes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from firebolt_cdc.config import Config, Mode, Table, Unlisted
from firebolt_cdc.errors import PermanentError

_FULL_LOAD = re.compile(r"LOAD[0-9A-Fa-f]{8,}")
_CHANGES = re.compile(r"([0-9]{8})-([0-9]{1,20})")
STAMP_DIGITS = 20
"""Digits after the dash of a change file's name, padded on the right so that text order is time order."""


class Kind(StrEnum):
    """A full load's file, or one of changes."""

    FULL = "full"
    CHANGE = "change"


@dataclass(frozen=True, order=True)
class FileVersion:
    """The identity of what is loaded: the same key with another etag is other content."""

    bucket: str
    key: str
    etag: str

    @property
    def file_id(self) -> str:
        """Hash over bucket, key and etag: the ledger's key for this version."""
        return digest(self.bucket, self.key, self.etag)

    @property
    def key_id(self) -> str:
        """Hash over bucket and key: what a reload repeats with another etag."""
        return digest(self.bucket, self.key)

    def applied_id(self, target: str, generation: int) -> str:
        """The key of `cdc_applied`: this version in this generation of this target."""
        return digest(target, str(generation), self.bucket, self.key, self.etag)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class SourceFile:
    """A file version with what its name says and where it goes."""

    version: FileVersion
    file_key: str
    source_table: str
    kind: Kind
    stamp: str
    """Change files: the time in the name, `YYYYMMDD-` and 20 digits. Full load: empty."""
    table: Table
    turn: str
    """The `cdc_tables` row under which it loads: the target's own, or the shared one of unlisted tables."""

    @property
    def target(self) -> str:
        """The target table's name."""
        return self.table.target

    def applied_id(self, generation: int) -> str:
        """See `FileVersion.applied_id`."""
        return self.version.applied_id(self.target, generation)


class SkippedError(PermanentError):
    """The file belongs to an unlisted table and the configuration says to skip those."""


def digest(*parts: str) -> str:
    """SHA-256 over length-prefixed parts, so that no two lists of parts give the same text."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(f"{len(data)}:".encode() + data)
    return hasher.hexdigest()


def file_key(config: Config, key: str) -> str:
    """The object's key less the configured prefix; the whole key where it lies elsewhere."""
    return key.removeprefix(config.source.prefix)


def identify(config: Config, version: FileVersion) -> SourceFile:
    """Say what a file version is and where it goes.

    Raises:
        SkippedError: its table is not listed and such tables are skipped.
        PermanentError: it is not a file of this pipeline, or not named as DMS names files, or its table is not
            listed and such files fail.
    """
    source = config.source
    if version.bucket != source.bucket:
        raise PermanentError(f"{version}: this pipeline reads the bucket {source.bucket}; check the rule that sent it")
    if not version.key.startswith(source.prefix) or not version.key.endswith(source.suffix):
        raise PermanentError(
            f"{version}: not below {source.prefix!r} with the suffix {source.suffix!r}; check the rule that sent it"
        )
    name = file_key(config, version.key)
    parts = name.split("/")
    if len(parts) < 3 or not all(parts):
        raise PermanentError(f"{version}: expected {source.prefix}schema/table/[date/]file{source.suffix}")
    stem = parts[-1].removesuffix(source.suffix)
    if _FULL_LOAD.fullmatch(stem):
        kind, stamp = Kind.FULL, ""
    elif match := _CHANGES.fullmatch(stem):
        kind, stamp = Kind.CHANGE, f"{match[1]}-{match[2]:0<{STAMP_DIGITS}}"
    else:
        raise PermanentError(
            f"{version}: the name is neither LOAD and a counter nor YYYYMMDD-time, so its place in "
            "the order of changes is unknown"
        )
    source_table = "/".join(parts[:2])
    table = config.tables.get(source_table)
    if table is not None:
        return SourceFile(version, name, source_table, kind, stamp, table, table.target)
    if config.unlisted_tables is Unlisted.SKIP:
        raise SkippedError(
            f"{version}: the table {source_table} is not in the table map and such files are skipped; "
            f"list it and run `firebolt-cdc retry` to load it"
        )
    if config.unlisted_tables is Unlisted.FAIL:
        raise PermanentError(
            f"{version}: the table {source_table} is not in the table map; add it to `tables` and "
            "apply, then run `firebolt-cdc retry`"
        )
    target = parts[1]
    if any(target == listed.target for listed in config.tables.values()):
        raise PermanentError(
            f"{version}: the unlisted table {source_table} would load into {target}, which another "
            "source fills; list it with a target of its own"
        )
    return SourceFile(
        version, name, source_table, kind, stamp, Table(target=target, mode=Mode.APPEND), config.unlisted_turn
    )


def file_rank(file: SourceFile, last_modified: datetime) -> str:
    """The part of `_cdc_seq` that a file gives to all its rows, encoded so that text order is the order of changes.

    Full-load rows (`0|`) sort below every change (`1|`) of their generation, because DMS stamps them when they
    arrive. Then the stamp in the name, then the object's LastModified, then a hash that breaks what ties are left.
    """
    modified = last_modified.astimezone(UTC).strftime("%Y%m%dT%H%M%S%f")
    tie = digest(file.version.key, file.version.etag)[:16]
    if file.kind is Kind.FULL:
        return f"0|{modified}|{tie}"
    return f"1|{file.stamp}|{modified}|{tie}"
