"""What a file is: its identity, its place in the table map, and its rank among the changes of its table.

Unless `tables` says otherwise, names and layout follow the AWS DMS guide, "Using Amazon S3 as a target":
`schema/table/[date folders/]file`, `LOAD` and a hexadecimal counter for full loads, a date and time with a varying
number of digits for changes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from firebolt_cdc.config import LONGEST_NAME, Config, Files, Mode, Table, Unlisted, is_own
from firebolt_cdc.errors import PermanentError

_NUMBERS = re.compile("[0-9]+")
STAMP_DIGITS = 20
"""Digits after the dash of a DMS change file's name, padded on the right so that text order is time order."""
NUMBER_DIGITS = 24
"""Digits of each number in any other stamp, padded on the left: a date and time to the nanosecond has 23."""
SEPARATOR = "__"
"""Between schema and table in an unlisted table's target; Firebolt's names have letters, digits, `-` and `_` only."""
_UNPLACED = (
    "so its place in the order of changes is unknown: correct files.changes of its table and apply, then run "
    "`firebolt-cdc retry`; or, if it is no file of the table, run `firebolt-cdc settle FILE --reason TEXT --yes`"
)
_STAMP_END = "!"
"""Less than every character of a stamp, so that a stamp sorts before its continuations."""


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
    """Change files: what orders them by name, see `stamp_text`. Empty where names say nothing, and for a full load."""
    table: Table
    turn: str
    """The `cdc_tables` row under which it loads: the target's own, or the shared one of unlisted tables."""

    @property
    def target(self) -> str:
        """The target table's name."""
        return self.table.target

    @property
    def listed(self) -> bool:
        """Whether the table map has its table."""
        return self.turn == self.target

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
        PermanentError: it is not a file of this pipeline, or not named as its table's files are, or its table is not
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
    stem = name.rpartition("/")[2].removesuffix(source.suffix)
    listed = _listed(config, name)
    if listed is not None:
        table = config.tables[listed]
        kind, stamp = _what(version, stem, table.files)
        return SourceFile(version, name, listed, kind, stamp, table, table.target)
    parts = name.split("/")
    if len(parts) < 3 or not all(parts):
        raise PermanentError(f"{version}: expected {source.prefix}schema/table/[date/]file{source.suffix}")
    kind, stamp = _what(version, stem, Files())
    source_table = "/".join(parts[:2])
    if config.unlisted_tables is Unlisted.SKIP:
        raise SkippedError(
            f"{version}: the table {source_table} is not in the table map and such files are skipped; "
            "list it and apply: the reconciliation loads it then, or `firebolt-cdc retry FILE` at once"
        )
    if source_table in config.tables:
        raise PermanentError(
            f"{version}: the files of {source_table} lie below {source.prefix + config.path(source_table)!r}, says the "
            "table map; move the file, or correct files.path and apply, then run `firebolt-cdc retry`"
        )
    if config.unlisted_tables is Unlisted.FAIL:
        raise PermanentError(
            f"{version}: the table {source_table} is not in the table map; add it to `tables` and "
            "apply, then run `firebolt-cdc retry`"
        )
    target = _unlisted_target(config, version, source_table)
    return SourceFile(
        version, name, source_table, kind, stamp, Table(target=target, mode=Mode.APPEND), config.unlisted_turn
    )


def folder(config: Config, source_table: str) -> str:
    """The prefix below which the files of a table lie."""
    return config.source.prefix + (config.path(source_table) if source_table in config.tables else f"{source_table}/")


def is_change(config: Config, version: FileVersion, source_table: str) -> bool:
    """Whether an object is a file of changes of this table; another's may lie in its folder."""
    try:
        file = identify(config, version)
    except PermanentError:
        return False
    return (file.source_table, file.kind) == (source_table, Kind.CHANGE)


def is_of_listed(config: Config, version: FileVersion) -> bool:
    """Whether an object lies below the path of a listed table, or where the layout has that table's files."""
    name = file_key(config, version.key)
    return _listed(config, name) is not None or "/".join(name.split("/")[:2]) in config.tables


def _listed(config: Config, name: str) -> str | None:
    """The listed table with the longest path that the file lies below."""
    end = len(name)
    while (end := name.rfind("/", 0, end)) >= 0:
        if (found := config.sources.get(name[: end + 1])) is not None:
            return found
    return config.sources.get("")


def _unlisted_target(config: Config, version: FileVersion, source_table: str) -> str:
    """The append target of an unlisted table, `schema__table`: a name that no other table's files can mean.

    One `__` says where the schema ends. Names with more are refused: `a__b/c` and `a/b__c` would share a target, and
    so would `a_/b` and `a/_b`.
    """
    target = source_table.replace("/", SEPARATOR)
    if target.find(SEPARATOR) != target.rfind(SEPARATOR):
        problem = f"a name that other tables could have too, for it holds {SEPARATOR} in more than one place"
    elif is_own(target):
        problem = "a name of the ledger's own"
    elif len(target) > LONGEST_NAME:
        problem = f"a name of more than the {LONGEST_NAME} characters that Firebolt allows"
    elif any(target == table.target for table in config.tables.values()):
        problem = "which another source fills"
    else:
        return target
    raise PermanentError(
        f"{version}: the unlisted table {source_table} would load into {target}, {problem}; list it in `tables` with a "
        "target of its own and apply, then run `firebolt-cdc retry`"
    )


def _what(version: FileVersion, stem: str, files: Files) -> tuple[Kind, str]:
    """What a name says: the kind of file, and its stamp."""
    if files.full_load_pattern.fullmatch(stem):
        return Kind.FULL, ""
    match = files.changes_pattern.fullmatch(stem)
    if match is None:
        wanted = (
            "neither LOAD and a counter nor YYYYMMDD-time"
            if files == Files(path=files.path)
            else f"neither files.full_load ({files.full_load}) nor files.changes ({files.changes})"
        )
        raise PermanentError(f"{version}: the name is {wanted}, {_UNPLACED}")
    if not files.stamped:
        return Kind.CHANGE, ""
    try:
        return Kind.CHANGE, stamp_text(match["stamp"] or "", dms=files.named_by_dms)
    except ValueError as error:
        raise PermanentError(f"{version}: {error}, {_UNPLACED}") from error


def stamp_text(stamp: str, *, dms: bool) -> str:
    """Encode the stamp in a file's name so that text order is the order of files.

    DMS's stamp, `YYYYMMDD-` and digits, is a time that is cut off anywhere: zeros are added on its right. In any other
    stamp each run of digits compares as a whole number (`9` before `10`), other characters by code point, and a stamp
    before its continuations (`7` before `7-1`). Dates and times compare rightly if their fields have fixed width;
    hexadecimal numbers do not.

    Raises:
        ValueError: nothing to order by, a character that could not be ordered, or a number of too many digits.
    """
    if dms:
        day, digits = stamp.split("-")
        return f"{day}-{digits:0<{STAMP_DIGITS}}"
    if not stamp or min(stamp) <= _STAMP_END:
        raise ValueError(
            f"the stamp {stamp!r} in the name is empty, or holds a space, an exclamation mark or a control character"
        )
    numbers = [number.lstrip("0") for number in _NUMBERS.findall(stamp)]
    if any(len(number) > NUMBER_DIGITS for number in numbers):
        raise ValueError(f"the stamp {stamp!r} in the name holds a number of more than {NUMBER_DIGITS} digits")
    return _NUMBERS.sub(lambda match: match[0].lstrip("0").zfill(NUMBER_DIGITS), stamp) + _STAMP_END


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
