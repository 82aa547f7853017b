"""What a reload would do: which full load is new, which changes are as new, what it supersedes. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from firebolt_cdc import files
from firebolt_cdc.config import RELOAD_MARK, Config, Table
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import FailureClass, PermanentError
from firebolt_cdc.files import Kind, SourceFile
from firebolt_cdc.ledger import SETTLED, UNWANTED
from firebolt_cdc.migrations import tables
from firebolt_cdc.protocol import way_out
from firebolt_cdc.sql import marks
from firebolt_cdc.storage import ObjectInfo, Storage


@dataclass(frozen=True)
class Item:
    """One object of the table's, and what its name says."""

    file: SourceFile
    info: ObjectInfo


@dataclass(frozen=True)
class Line:
    """A line of `cdc_applied` of the table's present generation."""

    file_id: str
    key_id: str
    kind: str
    file_key: str
    modified: datetime | None
    load_id: str


@dataclass(frozen=True)
class OlderChange:
    """A change file of the present generation that is older than the new full load."""

    file_key: str
    modified: datetime | None
    applied: bool


@dataclass(frozen=True)
class Plan:
    """What a reload would do."""

    source_table: str
    table: Table
    current: int
    generation: int
    starts: datetime
    """Last modification of the oldest file of the new full load; what is older is superseded."""
    shadow: str
    resumes: bool
    """Whether an interrupted reload of the same start goes on."""
    everything: bool
    """Whether it begins from all files of the present generation, not from a new full load."""
    full: tuple[Item, ...]
    changes: tuple[Item, ...]
    done: frozenset[str]
    """Applied ids that the new generation holds already."""
    superseded: tuple[Item, ...]
    left_out: dict[str, str]
    """Changes that failed for good, with why: they are in neither generation. No part of a full load is left out."""
    settled: tuple[Item, ...]
    """Those of them that an operator settled: they stay so in the new generation."""
    first: bool
    """Whether the present generation holds no other full load, so that the new one may be the table's first."""
    older_full: tuple[Item, ...]
    """Full-load files of the present generation that lie in S3 as they were and are not of the new full load."""
    older_changes: tuple[OlderChange, ...]
    """What the new full load is taken to hold already, oldest first; also where it is gone from S3."""

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything that the new generation holds in the end, full load first."""
        return (*self.full, *self.changes)

    @property
    def rest(self) -> list[Item]:
        """What is still to be filled in."""
        return [item for item in self.items if item.file.applied_id(self.generation) not in self.done]

    def doubt(self, *, same_task: bool, drop_older_full_load: bool) -> str | None:
        """Why only a person can say whether this reload loses nothing; None if it is not in doubt.

        Args:
            same_task: the person says that the full load holds the older changes, because the task that wrote them
                has loaded the table anew.
            drop_older_full_load: the person says that the new full load is whole without the older files.
        """
        doubts = []
        if self.first and not same_task:
            doubts.append(
                f"no other full load of it is loaded, and {len(self.older_changes)} change files are older than this "
                f"one. {way_out(self.table.target, first=True)}"
            )
        if self.older_full and not drop_older_full_load:
            doubts.append(
                f"{len(self.older_full)} full-load files of the present rows lie in S3 as they were, and the new rows "
                f"would lack them: {_names(self.older_full)}. If DMS is still writing the new full load: wait. If it "
                "has fewer files than the one before: --drop-older-full-load. If all of them are of one full load: "
                f"firebolt-cdc retry --class held --table {self.table.target} --yes loads the rest beneath the changes."
            )
        return f"{self.table.target}: {' Besides, '.join(doubts)}" if doubts else None


def _names(items: Sequence[Item]) -> str:
    return ", ".join([*(item.file.file_key for item in items[:5]), *(["…"] if len(items) > 5 else [])])


def find_table(config: Config, name: str) -> tuple[str, Table]:
    """A listed table by its source name (`schema/table`) or its target.

    Raises:
        PermanentError: it is not in the table map.
    """
    for source, table in config.tables.items():
        if name in (source, table.target):
            return source, table
    raise PermanentError(f"{name} is neither a source table nor a target of the table map: list it first")


class UndecidedError(PermanentError):
    """A person has to say what a full load is before the table is reloaded from it; see `Plan.doubt`."""


class NothingToReloadError(PermanentError):
    """No full load in S3 is another one than that of the table's present generation."""


class Planner:
    """Makes plans, from what lies in S3 and what the ledger says of it."""

    def __init__(self, config: Config, engine: Engine, storage: Storage) -> None:
        self._config = config
        self._engine = engine
        self._storage = storage

    def plan(self, name: str, *, everything: bool = False) -> Plan:
        """Say what a reload would do; writes nothing.

        Args:
            name: source table or target.
            everything: begin from all that lies in S3 of the present generation, not from a new full load.

        Raises:
            PermanentError: the table is unknown; or `everything` although there is a new full load.
            NothingToReloadError: there is no new full load.
        """
        source_table, table = find_table(self._config, name)
        current, since = self._current(table)
        listed = list(self._listed(source_table, table))
        settled = self._settled(table, current)
        failed = self._failed(table) | settled
        left_out = {
            item.file.version: failed[item.file.version.file_id]
            for item in listed
            if item.file.kind is Kind.CHANGE and item.file.version.file_id in failed
        }
        after = self._config.source.start_after
        lines = self._lines(table, current)
        applied = {line.file_id for line in lines}
        mine = [
            item
            for item in listed
            if (since is None or item.info.last_modified >= since)
            and (after is None or item.info.last_modified > after or item.file.version.file_id in applied)
        ]
        starts = _new_full_load(lines, mine)
        first = starts is not None and not _holds_another(lines, [i for i in mine if i.info.last_modified >= starts])
        if everything and starts is not None and not first:
            raise PermanentError(
                f"{table.target}: S3 holds a full load that is newer than the table's first change ({starts}): what is "
                "older is part of it; reload without --everything"
            )
        if everything:
            starts = min((item.info.last_modified for item in mine), default=None)
        if starts is None:
            raise NothingToReloadError(
                f"{table.target}: S3 holds no full-load file that is newer than the table's first change or that was "
                "applied with other content, so there is nothing to reload from; --everything begins again from all "
                f"files that lie there since the table's last reload{self._held_for_nothing(table)}"
            )
        items = [i for i in mine if i.info.last_modified >= starts and i.file.version not in left_out]
        generation, shadow, resumes = self._generation(table, current, starts)
        return Plan(
            source_table,
            table,
            current,
            generation,
            starts,
            shadow,
            resumes,
            everything,
            tuple(item for item in items if item.file.kind is Kind.FULL),
            tuple(sorted((i for i in items if i.file.kind is Kind.CHANGE), key=lambda item: item.file.stamp)),
            frozenset(self._applied("target_table = ? AND generation = ?", [table.target, generation], "applied_id")),
            tuple(item for item in listed if item.info.last_modified < starts),
            {item.file.file_key: left_out[v] for item in listed if (v := item.file.version) in left_out},
            tuple(item for item in mine if item.file.version in left_out and item.file.version.file_id in settled),
            first and not everything,
            tuple(
                item
                for item in mine
                if item.file.kind is Kind.FULL
                and item.info.last_modified < starts
                and item.file.version.file_id not in settled
            ),
            tuple(_older_changes(lines, mine, starts)),
        )

    def _current(self, table: Table) -> tuple[int, datetime | None]:
        """The table's generation, and from when on objects belong to it (None in the first)."""
        rows = self._engine.query(
            "SELECT pipeline, generation, generation_started_at FROM cdc_tables WHERE turn = ?", [table.target]
        )
        if not rows or str(rows[0][0]) != self._config.source.pipeline:
            raise PermanentError(f"{table.target} has no turn of this pipeline: run firebolt-cdc migrate --yes")
        generation = int(rows[0][1])
        return generation, rows[0][2] if generation > 1 else None

    def _lines(self, table: Table, current: int) -> list[Line]:
        rows = self._engine.query(
            "SELECT file_id, key_id, kind, file_key, file_modified_at, load_id FROM cdc_applied "
            "WHERE target_table = ? AND generation = ?",
            [table.target, current],
        )
        return [Line(str(r[0]), str(r[1]), str(r[2]), str(r[3]), r[4], str(r[5])) for r in rows]

    def _listed(self, source_table: str, table: Table) -> Iterator[Item]:
        for info in self._storage.listing(files.folder(self._config, source_table)):
            try:
                file = files.identify(self._config, info.version)
            except PermanentError:
                continue  # named as nothing of DMS's: its own event writes its `failed` line
            if file.table == table:
                yield Item(file, info)

    def _applied(self, condition: str, parameters: Sequence[object], column: str) -> set[str]:
        rows = self._engine.query(f"SELECT {column} FROM cdc_applied WHERE {condition}", parameters)
        return {str(row[0]) for row in rows}

    def _failed(self, table: Table) -> dict[str, str]:
        rows = self._engine.query(
            "SELECT file_id, error_message FROM cdc_processed_files WHERE turn = ? AND status = 'failed' "
            "AND error_class IN (?, ?)",
            [table.target, FailureClass.PERMANENT, FailureClass.GONE],
        )
        return {str(row[0]): str(row[1]) for row in rows}

    def _held_for_nothing(self, table: Table) -> str:
        """The way out for full-load files that are held although no change is older than they are, any more.

        So it is if the change that they were newer than was deleted before it was loaded.
        """
        rows = self._engine.query(
            "SELECT file_key FROM cdc_processed_files WHERE turn = ? AND kind = ? AND status = 'pending' "
            "AND error_class = ? ORDER BY file_key LIMIT 5",
            [table.target, Kind.FULL, FailureClass.HELD],
        )
        if not rows:
            return ""
        return (
            f". Full-load files are held: firebolt-cdc retry {' '.join(str(row[0]) for row in rows)} --yes loads them"
        )

    def _settled(self, table: Table, current: int) -> dict[str, str]:
        rows = self._engine.query(
            f"SELECT file_id, schema_change FROM cdc_applied WHERE target_table = ? AND generation = ? "
            f"AND load_id IN ({marks(UNWANTED)})",
            [table.target, current, *UNWANTED],
        )
        return {str(row[0]): str(row[1]) for row in rows}

    def _generation(self, table: Table, current: int, starts: datetime) -> tuple[int, str, bool]:
        """The generation that begins, its shadow table, and whether a reload of the same start goes on with it."""
        rows = self._engine.query(
            "SELECT generation, starts, settings, shadow, status FROM cdc_reloads WHERE turn = ? ORDER BY generation",
            [table.target],
        )
        present = tables(self._engine)
        for generation, began, settings, shadow, status in rows:
            if (status, began, settings) == ("building", starts, table.model_dump_json()) and int(generation) > current:
                holds = self._applied(
                    "target_table = ? AND generation = ? LIMIT 1", [table.target, int(generation)], "applied_id"
                )
                if str(shadow) in present or not holds:
                    return int(generation), str(shadow), True
        newest = self._engine.query("SELECT MAX(generation) FROM cdc_applied WHERE target_table = ?", [table.target])
        generation = 1 + max([current, int(newest[0][0] or 0), *(int(row[0]) for row in rows)])
        while (shadow := f"{table.target}{RELOAD_MARK}{generation}") in present:
            generation += 1
        return generation, shadow, False


def _new_full_load(lines: Sequence[Line], mine: Sequence[Item]) -> datetime | None:
    """When a full load began that is not of the present generation.

    Its files were written after the first change, or over files that were applied (also with the same content).
    What is merely not loaded yet is none; nor is what is loaded (the operator had it merged), unless the rest of
    the same full load is there too: that is, with no change between.
    """
    written: dict[str, list[Line]] = {}
    for line in lines:
        if line.kind == Kind.FULL and line.load_id not in UNWANTED:
            written.setdefault(line.key_id, []).append(line)
    changed = [line.modified for line in lines if line.kind == Kind.CHANGE and line.modified is not None]
    changed += [item.info.last_modified for item in mine if item.file.kind is Kind.CHANGE]
    first = min(changed, default=None)

    def is_other(item: Item) -> bool:
        version, modified = item.file.version, item.info.last_modified
        over = written.get(version.key_id, [])
        return (first is not None and modified > first) or any(
            line.file_id != version.file_id or (line.modified is not None and line.modified < modified) for line in over
        )

    loaded = _loaded(lines)
    other = [item for item in mine if item.file.kind is Kind.FULL and is_other(item)]
    starts = min((item.info.last_modified for item in other if not loaded(item)), default=None)
    if starts is None:
        return None
    last = max((moment for moment in changed if moment < starts), default=None)
    return min(item.info.last_modified for item in other if last is None or item.info.last_modified > last)


def _loaded(lines: Sequence[Line]) -> Callable[[Item], bool]:
    """Says of an object whether the generation holds it, and it was not written again since."""
    applied = {line.file_id: line.modified for line in lines}

    def is_loaded(item: Item) -> bool:
        file_id = item.file.version.file_id
        moment = applied.get(file_id)
        return file_id in applied and (moment is None or moment >= item.info.last_modified)

    return is_loaded


def _holds_another(lines: Sequence[Line], new: Sequence[Item]) -> bool:
    """Whether the generation holds a full load besides what is loaded of the new one; what was settled counts not."""
    loaded = _loaded(lines)
    part = {item.file.version.file_id for item in new if loaded(item)}
    return any(line.kind == Kind.FULL and line.load_id not in SETTLED and line.file_id not in part for line in lines)


def _older_changes(lines: Sequence[Line], mine: Sequence[Item], starts: datetime) -> list[OlderChange]:
    applied = {line.file_id for line in lines}
    older = [
        OlderChange(line.file_key, line.modified, applied=True)
        for line in lines
        if line.kind == Kind.CHANGE
        and line.load_id not in UNWANTED
        and (line.modified is None or line.modified < starts)
    ]
    older += [
        OlderChange(item.file.file_key, item.info.last_modified, applied=False)
        for item in mine
        if item.file.kind is Kind.CHANGE
        and item.info.last_modified < starts
        and item.file.version.file_id not in applied
    ]
    return sorted(older, key=lambda change: (change.modified is not None, change.modified or starts))
