"""Versioned SQL: which migrations there are, which are applied, and running the rest safely, also twice at once.

Files are `V<number>__<name>.sql`, numbered from 1 without gaps. A comment line `-- compatible_from: N` says from which
version on the code can work with the schema that the file makes; so a rolled-back function runs on a newer schema
inside its range.

Two runs at once: the first run creates a table with one row (DDL is serializable in Firebolt, so one creation wins),
and every transaction of a run UPDATEs that row: the second to commit conflicts, and looks again at what is applied.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlparse

from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine, Row, Transaction
from firebolt_cdc.errors import (
    CdcError,
    ConflictError,
    EngineRejectedError,
    LedgerUnavailableError,
    PermanentError,
)
from firebolt_cdc.ledger import with_conflict_retries

_NAME = re.compile(r"V(\d+)__([A-Za-z0-9_]+)\.sql$")
_COMPATIBLE = re.compile(r"^--\s*compatible_from:\s*(\d+)\s*$", re.MULTILINE)
_HERE = Path(__file__).resolve()
DIRECTORY = next(
    (p / "migrations" for p in _HERE.parents[1:3] if (p / "migrations").is_dir()),
    _HERE.parents[1] / "migrations",
)
"""Beside the package in the Lambda's zip, beside `handler/` in the repository."""
REQUIRED_VERSION = 8
"""The newest schema version whose tables this code uses."""


@dataclass(frozen=True)
class Migration:
    """One SQL file."""

    version: int
    name: str
    checksum: str
    compatible_from: int
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Applied:
    """One line of `cdc_schema_migrations`."""

    version: int
    name: str
    checksum: str
    compatible_from: int


def bundled(directory: Path = DIRECTORY) -> list[Migration]:
    """The migrations of this version, in order.

    Raises:
        PermanentError: a file is misnamed, without its `compatible_from`, numbered twice, or a number is missing.
    """
    found = []
    for path in sorted(directory.glob("*.sql")):
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        match, compatible = _NAME.match(path.name), _COMPATIBLE.search(text)
        if match is None or compatible is None:
            raise PermanentError(
                f"migration {path.name}: expected the name V<number>__<name>.sql and a line "
                "`-- compatible_from: <number>`"
            )
        plain = sqlparse.format(text, strip_comments=True)
        statements = tuple(s.strip().rstrip(";") for s in sqlparse.split(plain) if s.strip(" \n;"))
        checksum = hashlib.sha256(text.encode()).hexdigest()
        found.append(Migration(int(match[1]), match[2], checksum, int(compatible[1]), statements))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise PermanentError(
            f"migrations in {directory.name}/: numbers are {[m.version for m in found]}, expected 1, 2, 3 … each once"
        )
    return found


def pending(files: Sequence[Migration], applied: Sequence[Applied]) -> list[Migration]:
    """What is still to be applied.

    Raises:
        PermanentError: an applied file was changed or is missing, one came too late for its number, or the schema is
            newer than this code can work with.
    """
    by_version = {migration.version: migration for migration in files}
    newest_file = max(by_version, default=0)
    for line in applied:
        file = by_version.get(line.version)
        if file is None and line.version <= newest_file:
            raise PermanentError(
                f"migration V{line.version:03}__{line.name} is applied but its file is missing; restore it"
            )
        if file is None and line.compatible_from > newest_file:
            raise PermanentError(
                f"the schema is at version {line.version} and needs code that knows at least version "
                f"{line.compatible_from}; this code knows {newest_file}: deploy a newer version"
            )
        if file is not None and file.checksum != line.checksum:
            raise PermanentError(
                f"migration V{line.version:03}__{line.name} was changed after it had been applied; "
                "restore the file and put the change into a new one"
            )
    done = {line.version for line in applied}
    rest = [migration for migration in files if migration.version not in done]
    if rest and done and rest[0].version < max(done):
        raise PermanentError(
            f"migration V{rest[0].version:03}__{rest[0].name} came after version {max(done)} had been "
            "applied; give it the next free number"
        )
    return rest


def require(engine: Engine) -> None:
    """Check that the schema is one that this code can work with; a success is remembered for the process.

    Raises:
        LedgerUnavailableError: it is not, or it could not be read. Nothing may be loaded.
    """
    if _checked:
        return
    try:
        rows = engine.query("SELECT MAX(version), MAX(compatible_from) FROM cdc_schema_migrations")
    except CdcError as error:
        raise LedgerUnavailableError(f"the ledger's schema could not be read: {error}") from error
    version, compatible_from = (int(value or 0) for value in rows[0])
    if version < REQUIRED_VERSION:
        raise LedgerUnavailableError(
            f"the ledger's schema is at version {version}, this code needs {REQUIRED_VERSION}: "
            "run the migrate function (terraform apply, or `firebolt-cdc migrate --yes`)"
        )
    if compatible_from > REQUIRED_VERSION:
        raise LedgerUnavailableError(
            f"the ledger's schema needs code that knows version {compatible_from}, this code "
            f"knows {REQUIRED_VERSION}: deploy a newer version"
        )
    _checked.append(version)


_checked: list[int] = []


class Runner:
    """One run of the migrations."""

    def __init__(self, engine: Engine, deadline: Deadline, files: Sequence[Migration] | None = None) -> None:
        self._engine = engine
        self._deadline = deadline
        self._files = bundled() if files is None else files
        self._run_id = uuid.uuid4().hex

    def status(self) -> tuple[list[Applied], list[Migration]]:
        """What is applied and what is pending; writes nothing."""
        if "cdc_schema_migrations" not in tables(self._engine):
            return [], pending(self._files, [])
        applied = _history(self._engine.query(_HISTORY))
        return applied, pending(self._files, applied)

    def run(self) -> list[Migration]:
        """Apply what is pending, each file in a transaction of its own; returns what this run applied."""
        with_conflict_retries(self._deadline, self._ensure_guard)
        done: list[Migration] = []
        while migration := with_conflict_retries(self._deadline, self._apply_next):
            done.append(migration)
        return done

    def guarded(self, tx: Transaction) -> None:
        """Begin `tx` and write the guard row, so that no other run commits beside it."""
        tx.begin("SELECT version FROM cdc_migration_lock")
        tx.execute("UPDATE cdc_migration_lock SET version = version + 1, run_id = ?", [self._run_id])

    def _ensure_guard(self) -> None:
        present = tables(self._engine)
        if {"cdc_schema_migrations", "cdc_migration_lock"} <= present:
            return
        try:
            with self._engine.transaction() as tx:
                tx.begin("SELECT 1")
                tx.execute(
                    "CREATE TABLE cdc_schema_migrations (version INT NOT NULL, name TEXT NOT NULL, "
                    "checksum TEXT NOT NULL, compatible_from INT NOT NULL, run_id TEXT NOT NULL, "
                    "applied_at TIMESTAMPTZ NOT NULL) PRIMARY INDEX version"
                )
                tx.execute("CREATE TABLE cdc_migration_lock (version BIGINT NOT NULL, run_id TEXT NOT NULL)")
                tx.execute("INSERT INTO cdc_migration_lock (version, run_id) VALUES (0, ?)", [self._run_id])
                tx.commit()
        except EngineRejectedError as error:
            if not {"cdc_schema_migrations", "cdc_migration_lock"} <= tables(self._engine):
                raise
            raise ConflictError("another run created the migrations' tables first") from error

    def _apply_next(self) -> Migration | None:
        with self._engine.transaction() as tx:
            self.guarded(tx)
            rest = pending(self._files, _history(tx.execute(_HISTORY)))
            if not rest:
                return None
            migration = rest[0]
            for statement in migration.statements:
                tx.execute(statement)
            tx.execute(
                "INSERT INTO cdc_schema_migrations (version, name, checksum, compatible_from, run_id, applied_at) "
                "VALUES (?, ?, ?, ?, ?, CURRENT_TIMESTAMP)",
                [
                    migration.version,
                    migration.name,
                    migration.checksum,
                    migration.compatible_from,
                    self._run_id,
                ],
            )
            tx.commit()
            return migration


_HISTORY = "SELECT version, name, checksum, compatible_from FROM cdc_schema_migrations ORDER BY version"


def _history(rows: Sequence[Row]) -> list[Applied]:
    return [Applied(int(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in rows]


def tables(engine: Engine) -> set[str]:
    """The names of the database's tables."""
    return {str(row[0]) for row in engine.query("SELECT table_name FROM information_schema.tables")}
