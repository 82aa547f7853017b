"""Runs one statement inside one transaction.

DuckDB evaluates; what a statement changes is first computed into a work table, checked (NOT NULL, ranges), and then
added to the transaction's private tables. Semantics: pages "INSERT", "UPDATE", "DELETE", "MERGE", "ALTER TABLE".
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from . import catalog, dialect, fbtypes
from . import statements as st
from .catalog import Column, Location, Relation, Table, View
from .dialect import decode, literal, quoted
from .engine import LIVE, Engine, Transaction, run
from .errors import SqlError, refused
from .fbtypes import FbType

RID, OWN, TAB, HIT, ACT = ("^!rid", "^!own", "^!tab", "^!hit", "^!act")
#: PARTITION BY expressions -> DuckDB SQL of the tablet's name
_TABLETS: dict[tuple[str, ...], str] = {}
#: shape of a statement, which of its queries, catalog -> names and types of the query's outputs
_DESCRIBED: dict[tuple[str, int, tuple[Any, ...]], list[tuple[str, FbType]]] = {}
_DESCRIBED_LIMIT = 2_000


@dataclass
class Result:
    """Rows of a query: names, types and values ready for JSON. A statement without rows gives None instead."""

    names: list[str]
    types: list[FbType]
    rows: list[list[Any]]


class Executor:
    """One statement in one transaction; use once."""

    def __init__(self, engine: Engine, tx: Transaction, settings: dict[str, str], parameters: dict[str, Any]) -> None:
        self.engine = engine
        self.tx = tx
        self.settings = settings
        self.parameters = parameters
        self.now = engine.options.clock()
        self.files: list[Path] = []
        self.file_columns: list[str] = []
        self.parquet: dict[str, str] = {}
        #: of the statement, None where each text must be bound by itself; and how many of its queries were bound
        self.shape: str | None = None
        self.described = 0
        self.temporary: list[str] = []
        self.registered: list[str] = []
        #: whether a view's row counts are wanted, which are slow to find for many tables
        self.counted = True
        #: whether the statement made so many rows that their work table is better dropped at once
        self.many = False

    # ------------------------------------------------------------ entry

    def run(self, statement: st.Statement) -> Result | None:
        """Runs the statement. SqlError when it is refused or fails."""
        zone = self.settings.get("timezone") or self.settings.get("time_zone")
        try:
            if zone:
                self._do(f"SET TimeZone = {literal(zone)}")
            return self._dispatch(statement)
        except duckdb.Error as error:
            raise _from_duckdb(error) from error
        finally:
            for name in self.temporary if self.tx.explicit or self.many else ():  # else they go with the connection
                self._do(f"DROP TABLE IF EXISTS temp.{name}")
            for name in self.registered:
                self.tx.cursor.unregister(name)
            for file in self.files:
                file.unlink(missing_ok=True)
            if zone:
                self._do("SET TimeZone = 'UTC'")

    def _dispatch(self, statement: st.Statement) -> Result | None:
        if isinstance(statement, st.Query | st.Dml) and not self.parameters:
            self.shape = statement.shape
        if isinstance(statement, st.Query):
            return self._query(statement.tree)
        handlers: dict[type, Any] = {
            st.Dml: lambda s: self._dml(s.tree),
            st.Truncate: self._truncate,
            st.CreateTable: self._create_table,
            st.CreateView: self._create_view,
            st.Drop: self._drop,
            st.AddColumn: self._add_column,
            st.DropColumn: self._drop_column,
            st.RenameColumn: self._rename_column,
            st.RenameTable: self._rename_table,
            st.DropPartition: self._drop_partition,
            st.CreateLocation: self._create_location,
            st.DropLocation: self._drop_location,
            st.Vacuum: lambda s: self._table(s.table) and None,
        }
        handlers[type(statement)](statement)
        return None

    def _do(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs DuckDB SQL on the transaction's connection."""
        return run(self.tx.cursor, sql)

    # ------------------------------------------------------------ names

    def _relation_of(self, name: str) -> Relation:
        relation = self.tx.relations.get(name)
        if relation is None:
            raise SqlError(f"relation {decode(name)!r} does not exist", name="Relation Not Found")
        return relation

    def _table(self, name: str) -> Table:
        relation = self._relation_of(name)
        if not isinstance(relation, Table):
            raise SqlError(f"{decode(name)!r} is a view, not a table")
        return relation

    def _column(self, table: Table, name: str) -> Column:
        column = table.column(name)
        if column is None:
            raise SqlError(f"column {decode(name)!r} does not exist in {decode(table.name)!r}", name="Column Not Found")
        return column

    # ------------------------------------------------------------ translation

    def _context(self) -> dialect.Context:
        options = self.engine.options
        return dialect.Context(
            now=self.now,
            database=options.database,
            engine=options.engine,
            account=options.account,
            transaction=self.tx.id if self.tx.explicit else "",
            relation=self._relation_text,
        )

    def _sql(self, tree: exp.Expr) -> str:
        return dialect.to_duckdb(tree.copy(), self._context())

    def _describe(self, tree: exp.Expr) -> list[tuple[str, FbType]]:
        """Names and types of a query's outputs, bound without casts that Firebolt does not make.

        A statement of a shape that was bound before, on the same catalog, is not bound again.
        """
        if self.shape is None:
            return self._bind(tree)
        self.described += 1
        catalog_ = tuple(r.ddl if isinstance(r, Table) else r for r in self.tx.relations.values())
        key = (self.shape, self.described, catalog_)
        found = _DESCRIBED.get(key)
        if found is None:
            if len(_DESCRIBED) >= _DESCRIBED_LIMIT:
                _DESCRIBED.clear()
            found = _DESCRIBED[key] = self._bind(tree)
        return found

    def _bind(self, tree: exp.Expr) -> list[tuple[str, FbType]]:
        text = dialect.to_duckdb(dialect.strict(tree), self._context())
        return [(r[0], fbtypes.from_duckdb(r[1])) for r in self._do("DESCRIBE " + text)]

    def _relation_text(self, node: exp.Table) -> str:
        if isinstance(node.this, exp.Anonymous):
            return self._read_parquet(node.this)
        schema = node.args.get("db")
        if schema is not None and schema.name == "information_schema":
            return self._information_schema(node.name)
        if schema is not None and schema.name != "public":
            raise SqlError(f"schema {decode(schema.name)!r} does not exist", name="Relation Not Found")
        relation = self._relation_of(node.name)
        if isinstance(relation, View):
            return self._view_text(relation)
        return self._rows(relation, hidden=bool(node.meta.get("target")))

    def _view_text(self, view: View) -> str:
        text = self._sql(dialect.parse(view.query))
        if view.columns:
            names = ", ".join(quoted(c) for c in view.columns)
            return f"SELECT * FROM ({text}) AS v({names})"
        return text

    def _rows(self, table: Table, hidden: bool = False) -> str:
        """The rows of a table that this transaction sees; ``hidden`` adds what identifies them."""
        tx = self.tx
        stored = [
            (f"({tx.added[c.stored][1]})::{c.type.duckdb}" if c.stored in tx.added else f"x.{c.stored}", c)
            for c in table.columns
        ]
        parts = []
        if table.id not in tx.created:
            columns = ", ".join(f"{text} AS {quoted(c.name)}" for text, c in stored)
            if hidden:
                columns += f", x.rid AS {quoted(RID)}, false AS {quoted(OWN)}"
            where = f"x.b <= {tx.snapshot} AND x.e > {tx.snapshot}"
            if table.id in tx.written:
                where += f" AND NOT EXISTS (SELECT 1 FROM temp.d{table.id} AS g WHERE g.rid = x.rid)"
            parts.append(f"SELECT {columns} FROM main.t{table.id} AS x WHERE {where}")
        if table.id in tx.written:
            columns = ", ".join(f"x.{c.stored} AS {quoted(c.name)}" for c in table.columns)
            if hidden:
                columns += f", x.rowid AS {quoted(RID)}, true AS {quoted(OWN)}"
            parts.append(f"SELECT {columns} FROM temp.i{table.id} AS x")
        if not parts:
            columns = ", ".join(f"NULL::{c.type.duckdb} AS {quoted(c.name)}" for c in table.columns)
            if hidden:
                columns += f", 0::BIGINT AS {quoted(RID)}, true AS {quoted(OWN)}"
            parts.append(f"SELECT {columns} WHERE false")
        text = " UNION ALL ".join(parts)
        if hidden:
            return f"SELECT *, {self._tablet(table)} AS {quoted(TAB)} FROM ({text})"
        return text

    def _tablet(self, table: Table) -> str:
        """DuckDB SQL for the partition of a row, as text; a table without partitions is one tablet."""
        if table.partition_by not in _TABLETS:
            keys = [self._sql(dialect.parse_expression(p)) for p in table.partition_by]
            parts = [f"coalesce(CAST({k} AS VARCHAR), '')" for k in keys]
            _TABLETS[table.partition_by] = " || chr(31) || ".join(parts) or "''"
        return _TABLETS[table.partition_by]

    # ------------------------------------------------------------ READ_PARQUET, information_schema

    def _read_parquet(self, call: exp.Anonymous) -> str:
        key = call.sql()
        if key not in self.parquet:
            self.parquet[key] = self._load_parquet(call)
        return self.parquet[key]

    def _load_parquet(self, call: exp.Anonymous) -> str:
        arguments: dict[str, exp.Expr] = {}
        for position, item in enumerate(call.expressions):
            if isinstance(item, exp.Kwarg):
                arguments[item.this.name.upper()] = item.expression
            elif position == 0:
                arguments["URL"] = item
            else:
                raise SqlError("READ_PARQUET: only URL may be given by position")
        allowed = "URL LOCATION PATTERN REPLACE_NON_UTF8_BYTES ESTIMATED_ROWS AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY"
        allowed += " AWS_SESSION_TOKEN AWS_ROLE_ARN AWS_ROLE_EXTERNAL_ID"
        if unknown := arguments.keys() - set(allowed.split()):
            raise refused(f"READ_PARQUET argument {', '.join(sorted(unknown))}")
        texts = {k: str(v.this) for k, v in arguments.items() if isinstance(v, exp.Literal) and v.is_string}
        if "LOCATION" in arguments:
            if "LOCATION" not in texts or "URL" in arguments:
                raise SqlError("READ_PARQUET: LOCATION is a string literal and excludes URL")
            location = self.engine.locations.get(dialect.encode(texts["LOCATION"]))
            if location is None:
                raise SqlError(f"location {texts['LOCATION']!r} does not exist")
            if "PATTERN" in arguments and "PATTERN" not in texts:
                raise SqlError("READ_PARQUET: PATTERN is a string literal")
            objects = self.engine.s3.by_pattern(location.url, texts.get("PATTERN"))
        elif "URL" in texts and "PATTERN" not in arguments:
            objects = self.engine.s3.by_url(texts["URL"])
        else:
            raise SqlError("READ_PARQUET needs LOCATION => '...' [, PATTERN => '...'] or URL => '...'")
        newest = max(objects, key=lambda o: (o.modified, o.key))
        schema: list[tuple[str, str]] | None = None
        parts = []
        for item in sorted(objects, key=lambda o: o is not newest):
            path = self.engine.scratch / f"{uuid.uuid4().hex}.parquet"
            self.files.append(path)
            self.engine.s3.download(item, path)
            columns = self._parquet_columns(path, f"s3://{item.bucket}/{item.key}")
            schema = schema or columns
            have = {name: i for i, (name, _) in enumerate(columns)}
            if missing := [name for name, _ in schema if name not in have]:
                raise SqlError(f"column {missing[0]!r} is missing in s3://{item.bucket}/{item.key}")
            chosen = [f"CAST(p.a{have[n]} AS {kind}) AS {quoted(dialect.encode(n))}" for n, kind in schema]
            values = {
                "$source_file_name": literal(item.key),
                "$source_file_timestamp": f"TIMESTAMP '{item.modified.astimezone(UTC):%Y-%m-%d %H:%M:%S}'",
                "$source_file_size": f"{item.size}::BIGINT",
                "$source_file_etag": literal(item.etag),
            }
            chosen += [f"{values[c]} AS {quoted(c)}" for c in self.file_columns]
            aliases = ", ".join(f"a{i}" for i in range(len(columns)))
            source = f"read_parquet({literal(str(path))}, hive_partitioning = false)"
            parts.append(f"SELECT {', '.join(chosen)} FROM {source} AS p({aliases})")
        return " UNION ALL ".join(parts)

    def _parquet_columns(self, path: Path, url: str) -> list[tuple[str, str]]:
        """Names and DuckDB types of a file's columns, in the types that Firebolt has (UBIGINT as NUMERIC)."""
        try:
            names = pq.read_schema(path).names
            source = f"read_parquet({literal(str(path))}, hive_partitioning = false)"
            described = self._do(f"DESCRIBE SELECT * FROM {source}")
        except (pa.ArrowException, OSError, duckdb.Error) as error:
            raise SqlError(f"{url} is not a readable Parquet file: {error}", name="External Storage Error") from error
        if not names:
            raise SqlError(f"{url} has no columns", name="External Storage Error")
        kinds = ["DECIMAL(20,0)" if r[1] == "UBIGINT" else fbtypes.from_duckdb(r[1]).duckdb for r in described]
        return list(zip(names, kinds, strict=True))

    def _information_schema(self, view: str) -> str:
        if view not in catalog.VIEWS:
            raise SqlError(f"relation 'information_schema.{decode(view)}' does not exist", name="Relation Not Found")
        name = f"is_{view}_{len(self.registered)}"
        self.tx.cursor.register(name, catalog.arrow(view, self._information_rows(view)))
        self.registered.append(name)
        return f"SELECT * FROM {name}"

    def _information_rows(self, view: str) -> list[dict[str, Any]]:
        options, relations = self.engine.options, self.tx.relations
        if view == "columns":
            return catalog.column_rows(relations, options.database)
        if view == "transactions":
            return self.engine.transaction_rows()
        if view == "engine_query_history":
            return list(self.engine.history)
        if view == "locations":
            return [
                {
                    "location_name": decode(x.name),
                    "source": "AMAZON_S3",
                    "url": x.url,
                    "description": x.description,
                    "created": _moment(x.created),
                    "ddl": x.ddl,
                }
                for x in self.engine.locations.values()
            ]
        if view == "engines":
            running: dict[str, Any] = {"engine_name": options.engine, "status": "RUNNING", "auto_stop": 20}
            running |= {"nodes": 1, "clusters": 1, "auto_start": True, "default_database": options.database}
            return [running]
        common = {"table_catalog": options.database, "table_schema": "public"}
        rows = []
        for relation in relations.values():
            row = {**common, "table_name": decode(relation.name), "created": _moment(relation.created)}
            if isinstance(relation, View):
                row |= {"view_definition": relation.query, "is_updatable": "NO", "insertable_into": "NO"}
                row |= {"table_type": "VIEW", "type": "VIEW", "is_insertable_into": "NO", "ddl": relation.query}
            elif view == "views":
                continue
            else:
                row |= self._table_row(relation)
            rows.append({k: v for k, v in row.items() if k in catalog.VIEWS[view]})
        return rows

    def _table_row(self, table: Table) -> dict[str, Any]:
        return {
            "table_type": "BASE TABLE",
            "type": "DIMENSION" if table.dimension else "FACT",
            "primary_index": "[" + ", ".join(decode(c) for c in table.primary_index) + "]",
            "number_of_rows": self._do(f"SELECT count(*) FROM ({self._rows(table)})")[0][0] if self.counted else None,
            "number_of_tablets": 1,
            "fragmentation": Decimal(0),
            "ddl": table.ddl,
            "is_insertable_into": "YES",
            "is_typed": "NO",
        }

    # ------------------------------------------------------------ SELECT

    def _query(self, tree: exp.Expr) -> Result:
        tree = dialect.with_parameters(tree, self.parameters)
        self.counted = any(c.name == "number_of_rows" for c in tree.find_all(exp.Column)) or bool(tree.find(exp.Star))
        self.file_columns = dialect.file_columns_used(tree)
        described = self._describe(tree)
        self._check_unions(tree)
        names = dialect.output_names(tree) or [None] * len(described)
        text = self._sql(tree)
        limit = int(self.settings.get("max_result_rows", "0") or 0)
        if limit > 0:
            text = f"SELECT * FROM ({text}) LIMIT {limit}"
        table = self.tx.cursor.sql(text).to_arrow_table()
        zone = ZoneInfo(self.settings.get("timezone") or self.settings.get("time_zone") or "UTC")
        values = [_json_column(table.column(i), kind, zone) for i, (_, kind) in enumerate(described)]
        return Result(
            names=[names[i] or decode(name) for i, (name, _) in enumerate(described)],
            types=[kind for _, kind in described],
            rows=[list(row) for row in zip(*values, strict=True)],
        )

    def _check_unions(self, tree: exp.Expr) -> None:
        """UNION needs the same types on both sides (page "SELECT"); DuckDB would turn both into TEXT."""
        for union in tree.find_all(exp.Union):
            if union.find(exp.With) or tree.find(exp.With):
                continue
            sides = [self._describe(cast(exp.Expr, side)) for side in (union.this, union.expression)]
            literals = [dialect.projections(cast(exp.Expr, side)) for side in (union.this, union.expression)]
            for i, ((_, left), (_, right)) in enumerate(zip(*sides, strict=False)):
                written = any(len(p) == len(sides[0]) and dialect.is_literal(p[i]) for p in literals)
                differ = (left.name == "text") != (right.name == "text")
                if differ and not written and "unknown" not in (left.name, right.name):
                    raise SqlError(f"UNION types {left} and {right} cannot be matched", name="Type Error")

    # ------------------------------------------------------------ INSERT, UPDATE, DELETE, MERGE

    def _dml(self, tree: exp.Expr) -> None:
        tree = dialect.with_parameters(tree, self.parameters)
        self.file_columns = dialect.file_columns_used(tree)
        if isinstance(tree, exp.Insert):
            self._insert_statement(tree)
        elif isinstance(tree, exp.Update):
            self._update(tree)
        elif isinstance(tree, exp.Delete):
            self._delete(tree)
        elif isinstance(tree, exp.Merge):
            self._merge(tree)

    def _target(self, node: exp.Expr) -> tuple[Table, exp.Table]:
        if not isinstance(node, exp.Table) or isinstance(node.this, exp.Anonymous):
            raise SqlError("the target must be a table")
        schema = node.args.get("db")
        if schema is not None and schema.name != "public":
            raise SqlError(f"{schema.name}.{decode(node.name)} cannot be written")
        target = node.copy()
        target.meta["target"] = True
        target.set("joins", None)
        return self._table(node.name), target

    def _work_table(self, select: str) -> str:
        name = f"w{len(self.temporary)}_{uuid.uuid4().hex[:6]}"
        self.temporary.append(name)
        self._do(f"CREATE TEMP TABLE {name} AS {select}")
        return name

    def _assign(self, node: exp.Expr, source: FbType, column: Column, origin: exp.Expr | None) -> exp.Expr:
        """The expression as a value of ``column``; SqlError if Firebolt would want an explicit cast.

        ``origin`` is the expression as it was written, None if that is not known.
        """
        literal_ = origin is not None and dialect.is_literal(origin)
        computed = origin is not None and dialect.is_computed(origin)
        strict = self.engine.options.strict_types
        if not fbtypes.assignable(source, column.type, literal=literal_, computed=computed, strict=strict):
            raise SqlError(
                f"column {decode(column.name)!r} is of type {column.type} but the expression is of type {source}: "
                "an explicit cast is needed",
                name="Type Error",
            )
        return _cast(node, column.type)

    def _default(self, column: Column) -> exp.Expr:
        """The value of a column that is not given."""
        return _cast(dialect.parse_expression(column.default or "NULL"), column.type)

    def _check_rows(self, work: str, columns: Sequence[Column], where: str = "true") -> None:
        """NOT NULL, no character zero in TEXT, years 1 to 9999 (pages "CREATE TABLE", "Data types")."""
        tests: list[tuple[str, str]] = []
        for c in columns:
            if not c.nullable:
                tests.append((f"{c.stored} IS NULL", f"null value in NOT NULL column {decode(c.name)!r}"))
            kind, items = c.type, ""
            while kind.element is not None:
                items, kind = f"flatten({items})" if items else c.stored, kind.element
            value = "x" if items else c.stored
            if kind.name == "text":
                test, message = f"contains({value}, chr(0))", f"character zero in text column {decode(c.name)!r}"
            elif kind.name in ("date", "timestamp", "timestamptz"):
                low, high = f"'0001-01-01'::{kind.duckdb}", f"'9999-12-31 23:59:59.999999'::{kind.duckdb}"
                test, message = f"NOT {value} BETWEEN {low} AND {high}", f"{kind} out of range in {decode(c.name)!r}"
            else:
                continue
            tests.append((f"len(list_filter({items}, lambda x: {test})) > 0" if items else test, message))
        if not tests:
            return
        counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test, _ in tests)
        found = self._do(f"SELECT {counts} FROM temp.{work} WHERE {where}")[0]
        for bad, (_, message) in zip(found, tests, strict=True):
            if bad:
                raise SqlError(message, name="Constraint Violation")

    def _add_rows(self, table: Table, work: str, where: str = "true") -> None:
        names = ", ".join(c.stored for c in table.columns)
        made = self._do(f"INSERT INTO temp.i{table.id} ({names}) SELECT {names} FROM temp.{work} WHERE {where}")
        self.tx.own_rows[table.id] = self.tx.own_rows.get(table.id, 0) + int(made[0][0])
        self.many = self.many or made[0][0] > 10_000

    def _end_rows(self, table: Table, work: str, where: str = "true") -> None:
        do, rid, own, tab = self._do, quoted(RID), quoted(OWN), quoted(TAB)
        do(f"INSERT INTO temp.d{table.id} SELECT {rid}, {tab} FROM temp.{work} WHERE NOT {own} AND {where}")
        if self.tx.own_rows.get(table.id):
            do(f"DELETE FROM temp.i{table.id} WHERE rowid IN (SELECT {rid} FROM temp.{work} WHERE {own} AND {where})")

    def _refuse_duplicates(self, work: str, what: str, where: str) -> None:
        key = f"{quoted(RID)}, {quoted(OWN)}"
        if self._do(f"SELECT 1 FROM temp.{work} WHERE {where} GROUP BY {key} HAVING count(*) > 1 LIMIT 1"):
            raise SqlError(f"{what}: a target row matches more than one source row", name="Execution Error")

    def _insert_statement(self, tree: exp.Insert) -> None:
        into = tree.this
        names = [i.name for i in into.expressions] if isinstance(into, exp.Schema) else None
        table, _ = self._target(into.this if isinstance(into, exp.Schema) else into)
        if tree.args.get("conflict"):
            self._insert_on_conflict(tree, table, names)
            return
        if tree.expression is None:
            raise SqlError("INSERT needs VALUES or a query", name="Parse Error")
        self._insert(table, names, tree.expression)

    def _insert(self, table: Table, names: list[str] | None, source: exp.Expr) -> None:
        columns = [self._column(table, n) for n in names] if names is not None else list(table.columns)
        if len({c.name for c in columns}) != len(columns):
            raise SqlError("a column is named twice")
        query, origins = _as_query(source)
        described = self._describe(query)
        self._check_unions(query)
        if len(described) != len(columns):
            raise SqlError(f"INSERT has {len(described)} expressions for {len(columns)} columns")
        given = {
            c.name: self._assign(_name(f"v{i}", "q"), described[i][1], c, origins[i] if origins else None)
            for i, c in enumerate(columns)
        }
        chosen = [exp.alias_(given.get(c.name) or self._default(c), c.stored) for c in table.columns]
        self.engine.private(self.tx, table)
        aliases = ", ".join(f"v{i}" for i in range(len(described)))
        values = self._sql(exp.Select(expressions=chosen))
        work = self._work_table(f"{values} FROM ({self._sql(query)}) AS q({aliases})")
        self._check_rows(work, table.columns)
        self._add_rows(table, work)

    def _insert_on_conflict(self, tree: exp.Insert, table: Table, names: list[str] | None) -> None:
        """Page "INSERT", "INSERT ON CONFLICT": one VALUES tuple, columns named; a MERGE in other words."""
        values, conflict = tree.expression, tree.args["conflict"]
        if not isinstance(values, exp.Values) or len(values.expressions) != 1 or names is None:
            raise SqlError("INSERT ON CONFLICT takes a column list and exactly one VALUES tuple")
        keys = [k.this if isinstance(k, exp.Ordered) else k for k in conflict.args.get("conflict_keys") or []]
        if not keys or conflict.args.get("constraint") or conflict.args.get("duplicate"):
            raise SqlError("ON CONFLICT needs the conflict columns")
        tuple_ = values.expressions[0].expressions
        if len(tuple_) != len(names):
            raise SqlError(f"INSERT has {len(tuple_)} expressions for {len(names)} columns")
        on = [exp.EQ(this=_name(k.name, table.name), expression=_name(k.name, "excluded")) for k in keys]
        whens: list[exp.Expr] = []
        if conflict.expressions:
            sets = conflict.expressions
            if any(isinstance(s, exp.Star) for s in sets):
                sets = [exp.EQ(this=_name(n), expression=_name(n, "excluded")) for n in names]
            whens.append(exp.When(matched=True, source=False, then=exp.Update(expressions=[s.copy() for s in sets])))
        insert = exp.Insert(
            this=exp.Tuple(expressions=[_name(n) for n in names]),
            expression=exp.Tuple(expressions=[v.copy() for v in tuple_]),
        )
        whens.append(exp.When(matched=False, source=False, then=insert))
        selected = exp.select(
            *[
                exp.alias_(_cast(v.copy(), self._column(table, n).type), n, quoted=True)
                for v, n in zip(tuple_, names, strict=True)
            ]
        )
        merge = exp.Merge(
            this=exp.Table(this=exp.to_identifier(table.name, quoted=True)),
            using=exp.Subquery(this=selected, alias=exp.TableAlias(this=exp.to_identifier("excluded", quoted=True))),
            on=exp.and_(*on),
            whens=exp.Whens(expressions=whens),
        )
        self._merge(merge)

    def _assignments(self, table: Table, sets: Sequence[exp.Expr]) -> list[tuple[Column, exp.Expr]]:
        """``column = value`` pairs of UPDATE SET."""
        pairs = []
        for item in sets:
            if not isinstance(item, exp.EQ | exp.PropertyEQ) or not isinstance(item.this, exp.Column):
                raise SqlError("SET takes column = value", name="Parse Error")
            pairs.append((self._column(table, item.this.name), item.expression))
        if len({c.name for c, _ in pairs}) != len(pairs):
            raise SqlError("a column is set twice")
        return pairs

    def _hidden(self, name: str) -> list[exp.Expr]:
        return [exp.alias_(_name(h, name), h, quoted=True) for h in (RID, OWN, TAB)]

    def _update(self, tree: exp.Update) -> None:
        table, target = self._target(tree.this)
        name = dialect.table_alias(target)
        sets = self._assignments(table, tree.expressions)
        query = exp.select(*[exp.alias_(e.copy(), f"v{i}") for i, (_, e) in enumerate(sets)]).from_(target)
        from_ = tree.args.get("from_")
        if from_ is not None:
            query.append("joins", exp.Join(this=from_.this.copy(), kind="CROSS"))
        if tree.args.get("where"):
            query = query.where(tree.args["where"].this.copy())
        described = self._describe(query)
        values = {c.name: self._assign(e.copy(), described[i][1], c, e) for i, (c, e) in enumerate(sets)}
        self.engine.private(self.tx, table)
        chosen = [exp.alias_(values.get(c.name) or _name(c.name, name), c.stored) for c in table.columns]
        query.set("expressions", self._hidden(name) + chosen)
        work = self._work_table(self._sql(query))
        if from_ is not None:
            self._refuse_duplicates(work, "UPDATE ... FROM", "true")
        self._check_rows(work, [c for c, _ in sets])
        self._end_rows(table, work)
        self._add_rows(table, work)

    def _delete(self, tree: exp.Delete) -> None:
        table, target = self._target(tree.this)
        query = exp.Select(expressions=self._hidden(dialect.table_alias(target))).from_(target)
        for item in tree.args.get("using") or []:
            query.append("joins", exp.Join(this=item.copy(), kind="CROSS"))
        if tree.args.get("where"):
            query = query.where(tree.args["where"].this.copy())
        self._describe(query)
        self.engine.private(self.tx, table)
        self._end_rows(table, self._work_table(self._sql(query.distinct())))

    def _truncate(self, statement: st.Truncate) -> None:
        self._delete(exp.Delete(this=exp.Table(this=exp.to_identifier(statement.table, quoted=True))))

    def _drop_partition(self, statement: st.DropPartition) -> None:
        table = self._table(statement.table)
        if len(statement.values) != len(table.partition_by):
            raise SqlError("DROP PARTITION needs one value per partition column")
        tests = [
            exp.EQ(this=dialect.parse_expression(p), expression=dialect.parse_expression(v))
            for p, v in zip(table.partition_by, statement.values, strict=True)
        ]
        target = exp.Table(this=exp.to_identifier(table.name, quoted=True))
        self._delete(exp.Delete(this=target, where=exp.Where(this=exp.and_(*tests))))

    def _merge(self, tree: exp.Merge) -> None:
        """Page "MERGE": a join, then for each joined row the first branch of its category that applies."""
        table, target = self._target(tree.this)
        name = dialect.table_alias(target)
        branches = [_branch(when, i) for i, when in enumerate(tree.args["whens"].expressions, 1)]
        source_alias, source = _marked_source(tree.args["using"])
        seen: set[str] = set()
        for branch in branches:
            if branch.category in seen:
                raise SqlError(f"MERGE: a branch after an unconditional {branch.category} branch is unreachable")
            if branch.condition is None:
                seen.add(branch.category)
        categories = {b.category for b in branches}
        only_target, only_source = "NOT MATCHED BY SOURCE" in categories, "NOT MATCHED" in categories
        side = "full" if only_target and only_source else "left" if only_target else "right" if only_source else ""
        join = exp.Join(this=source, side=side.upper() or None, on=tree.args["on"].copy())
        joined = exp.Select().from_(target)
        joined.append("joins", join)
        in_target = exp.Not(this=exp.Is(this=_name(RID, name), expression=exp.Null()))
        in_source = exp.Not(this=exp.Is(this=_name(HIT, source_alias), expression=exp.Null()))
        tests = {
            "MATCHED": exp.and_(in_target, in_source),
            "NOT MATCHED": exp.not_(in_target),
            "NOT MATCHED BY SOURCE": exp.not_(in_source),
        }
        for branch in branches:
            self._expand(branch, table, name, source_alias, source)
        act = exp.Case()
        for branch in branches:
            test = exp.and_(tests[branch.category], branch.condition)
            act = act.when(test, exp.Literal.number(branch.number if branch.kind != "DO NOTHING" else 0))
        flat = [(b, c, e) for b in branches for c, e in b.values]
        bound = joined.select(act.copy(), tree.args["on"].copy(), *[e.copy() for _, _, e in flat])
        described = self._describe(bound)[2:]
        # DuckDB lets an output refer to an earlier one, but not to one with a subquery in it
        chosen_act = act if act.find(exp.Select) else _name(ACT)
        per_column: dict[str, exp.Case] = {}
        for (branch, column, node), (_, kind) in zip(flat, described, strict=True):
            case = per_column.setdefault(column.name, exp.Case(this=chosen_act.copy()))
            value = self._assign(node.copy(), kind, column, node)
            per_column[column.name] = case.when(exp.Literal.number(branch.number), value)
        chosen: list[exp.Expr] = [exp.alias_(act, ACT, quoted=True)]
        chosen += [*self._hidden(name), exp.alias_(_name(HIT, source_alias), HIT, quoted=True)]
        for column in table.columns:
            own = per_column.get(column.name)
            value = own.else_(_name(column.name, name)) if own else _name(column.name, name)
            chosen.append(exp.alias_(value, column.stored))
        self.engine.private(self.tx, table)
        work = self._work_table(self._sql(joined.select(*chosen)))
        changing = [b for b in branches if b.category == "MATCHED" and b.kind in ("UPDATE", "DELETE")]
        if changing and self.engine.options.merge_duplicates == "error":
            self._refuse_duplicates(work, "MERGE", f"{quoted(HIT)} AND {quoted(RID)} IS NOT NULL")

        def rows_of(*kinds: str) -> str:
            numbers = [str(b.number) for b in branches if b.kind in kinds]
            return f"{quoted(ACT)} IN ({', '.join(numbers)})" if numbers else "false"

        if changing and self.engine.options.merge_duplicates == "any":
            do, key = self._do, f"{quoted(RID)}, {quoted(OWN)}"
            do(
                f"DELETE FROM temp.{work} WHERE {rows_of('UPDATE', 'DELETE')} AND rowid NOT IN (SELECT min(rowid) "
                f"FROM temp.{work} WHERE {rows_of('UPDATE', 'DELETE')} GROUP BY {key})"
            )
        self._check_rows(work, table.columns, rows_of("UPDATE", "INSERT"))
        self._end_rows(table, work, rows_of("UPDATE", "DELETE"))
        self._add_rows(table, work, rows_of("UPDATE", "INSERT"))

    def _expand(self, branch: Branch, table: Table, name: str, source_alias: str, source: exp.Expr) -> None:
        """Fills in the values that a branch stores, per column."""
        then = branch.then
        if branch.kind == "UPDATE":
            sets = then.expressions
            if not sets or any(isinstance(s, exp.Star) for s in sets):
                names = self._same_columns(table, source)
                branch.values = [(self._column(table, n), _name(n, source_alias)) for n in names]
            else:
                branch.values = self._assignments(table, sets)
        elif branch.kind == "INSERT":
            given: dict[str, exp.Expr] = {}
            if isinstance(then.this, exp.Tuple | exp.Column) and then.expression is not None:
                columns = then.this.expressions if isinstance(then.this, exp.Tuple) else [then.this]
                values = then.expression.expressions if isinstance(then.expression, exp.Tuple) else [then.expression]
                if len(columns) != len(values):
                    raise SqlError(f"MERGE INSERT has {len(values)} values for {len(columns)} columns")
                given = {self._column(table, c.name).name: v for c, v in zip(columns, values, strict=True)}
                if len(given) != len(columns):
                    raise SqlError("a column is named twice")
            elif isinstance(then.this, exp.Star):
                given = {n: _name(n, source_alias) for n in self._same_columns(table, source)}
            else:
                raise SqlError("MERGE INSERT needs (columns) VALUES (values), or *", name="Parse Error")
            branch.values = [(c, given[c.name] if c.name in given else self._default(c)) for c in table.columns]

    def _same_columns(self, table: Table, source: exp.Expr) -> list[str]:
        names = [n for n, _ in self._describe(exp.select("*").from_(source.copy())) if n != HIT]
        if set(names) != {c.name for c in table.columns}:
            raise SqlError("MERGE with * needs the same column names in source and target")
        return names

    # ------------------------------------------------------------ DDL

    def _new_name(self, name: str, if_not_exists: bool) -> bool:
        """False when the relation exists and that is allowed."""
        if name not in self.tx.relations:
            return True
        if if_not_exists:
            return False
        raise SqlError(f"relation {decode(name)!r} already exists", name="Already Exists")

    def _create_table(self, statement: st.CreateTable) -> None:
        if statement.dimension and self.engine.options.single_writer:
            raise SqlError("Firebolt Core has no DIMENSION tables")
        if not self._new_name(statement.name, statement.if_not_exists):
            return
        query = dialect.parse(statement.query) if statement.query else None
        if query is not None:
            query = dialect.with_parameters(query, self.parameters)
            self.file_columns = dialect.file_columns_used(query)
            described = self._describe(query)
            names = statement.names or [n for n, _ in described]
            if len(names) != len(described):
                raise SqlError(f"CREATE TABLE AS: {len(names)} names for {len(described)} columns")
            new = [
                st.Column(n, FbType("text") if k.name == "unknown" else k, True, None)
                for n, (_, k) in zip(names, described, strict=True)
            ]
        else:
            new = statement.columns
        columns = tuple(Column(c.name, f"c{self.engine.new_id()}", c.type, c.nullable, c.default) for c in new)
        table = Table(
            id=self.engine.new_id(),
            name=statement.name,
            columns=columns,
            primary_index=tuple(statement.primary_index),
            partition_by=tuple(statement.partition_by),
            dimension=statement.dimension,
            created=self.now.isoformat(),
        )
        if len({c.name for c in columns}) != len(columns):
            raise SqlError("a column name occurs twice")
        for index in table.primary_index:
            self._column(table, index)
        for part in table.partition_by:
            for used in dialect.parse_expression(part).find_all(exp.Column):
                if self._column(table, used.name).nullable:
                    raise SqlError(f"PARTITION BY column {decode(used.name)!r} must be NOT NULL")
        self.engine.define(self.tx, table.name, table)
        self.tx.created.add(table.id)
        self.engine.private(self.tx, table)
        if query is not None:
            self._insert(table, None, query)

    def _create_view(self, statement: st.CreateView) -> None:
        existing = self.tx.relations.get(statement.name)
        replaced = statement.or_replace and isinstance(existing, View)
        if not replaced and not self._new_name(statement.name, statement.if_not_exists):
            return
        tree = dialect.parse(statement.query)
        described = self._describe(tree)
        if statement.columns and len(statement.columns) != len(described):
            raise SqlError(f"CREATE VIEW: {len(statement.columns)} names for {len(described)} columns")
        tables = [t for t in tree.find_all(exp.Table) if not isinstance(t.this, exp.Anonymous)]
        depends = {t.name for t in tables if not dialect.is_cte(t) and t.db != "information_schema"}
        view = View(
            statement.name, statement.query, tuple(statement.columns), tuple(sorted(depends)), self.now.isoformat()
        )
        if statement.name in depends:
            raise SqlError("a view cannot read itself")
        self.engine.define(self.tx, view.name, view)
        self.tx.relied_on |= depends - self.tx.changed

    def _dependents(self, name: str) -> list[View]:
        return [r for r in self.tx.relations.values() if isinstance(r, View) and name in r.depends]

    def _drop(self, statement: st.Drop) -> None:
        relation = self.tx.relations.get(statement.name)
        if relation is None:
            if statement.if_exists:
                return
            self._relation_of(statement.name)
        if isinstance(relation, View) != (statement.kind == "VIEW"):
            raise SqlError(f"{decode(statement.name)!r} is not a {statement.kind.lower()}")
        for view in self._dependents(statement.name):
            if not statement.cascade:
                raise SqlError(f"{decode(statement.name)!r} is used by view {decode(view.name)!r}")
            self._drop(st.Drop("VIEW", view.name, True, True))
        self.engine.define(self.tx, statement.name, None)

    def _alterable(self, name: str) -> Table:
        table = self._table(name)
        if self.engine.options.views_block_alter and (views := self._dependents(name)):
            raise SqlError(f"{decode(name)!r} cannot be altered: view {decode(views[0].name)!r} depends on it")
        return table

    def _add_column(self, statement: st.AddColumn) -> None:
        table, new = self._table(statement.table), statement.column
        if table.column(new.name) is not None:
            if statement.if_not_exists:
                return
            raise SqlError(f"column {decode(new.name)!r} already exists", name="Already Exists")
        table = self._alterable(statement.table)
        if not new.nullable and new.default is None:
            raise SqlError(f"column {decode(new.name)!r} is NOT NULL: it needs a DEFAULT for the rows that exist")
        column = Column(new.name, f"c{self.engine.new_id()}", new.type, new.nullable, new.default)
        self.engine.add_column(self.tx, table, column, self._sql(self._default(column)))

    def _drop_column(self, statement: st.DropColumn) -> None:
        table = self._table(statement.table)
        if table.column(statement.column) is None and statement.if_exists:
            return
        table = self._alterable(statement.table)
        column = self._column(table, statement.column)
        used = {c.name for p in table.partition_by for c in dialect.parse_expression(p).find_all(exp.Column)}
        if column.name in used or column.name in table.primary_index:
            raise SqlError(f"column {decode(column.name)!r} is part of the primary index or partition key")
        self._redefine(table, columns=tuple(c for c in table.columns if c is not column))

    def _rename_column(self, statement: st.RenameColumn) -> None:
        if statement.table not in self.tx.relations and statement.table_if_exists:
            return
        table = self._table(statement.table)
        if table.column(statement.old) is None and statement.if_exists:
            return
        table = self._alterable(statement.table)
        old = self._column(table, statement.old)
        if table.column(statement.new) is not None:
            raise SqlError(f"column {decode(statement.new)!r} already exists", name="Already Exists")
        used = {c.name for p in table.partition_by for c in dialect.parse_expression(p).find_all(exp.Column)}
        if old.name in used:
            raise SqlError(f"column {decode(old.name)!r} is part of the partition key")
        columns = tuple(replace(c, name=statement.new) if c is old else c for c in table.columns)
        index = tuple(statement.new if n == old.name else n for n in table.primary_index)
        self._redefine(table, columns=columns, primary_index=index)

    def _redefine(self, table: Table, **changes: Any) -> None:
        self.engine.define(self.tx, table.name, replace(table, **changes))

    def _rename_table(self, statement: st.RenameTable) -> None:
        if statement.table not in self.tx.relations and statement.if_exists:
            return
        relation = self._relation_of(statement.table)
        if views := self._dependents(statement.table):
            raise SqlError(
                f"{decode(statement.table)!r} cannot be renamed: view {decode(views[0].name)!r} depends on it"
            )
        self._new_name(statement.new, False)
        self.engine.define(self.tx, statement.table, None)
        self.engine.define(self.tx, statement.new, replace(relation, name=statement.new))

    def _create_location(self, statement: st.CreateLocation) -> None:
        self._outside("CREATE LOCATION")
        if statement.name in self.engine.locations:
            if statement.if_not_exists:
                return
            raise SqlError(f"location {decode(statement.name)!r} already exists", name="Already Exists")
        made = Location(statement.name, statement.url, statement.description, statement.ddl, self.now.isoformat())
        self.engine.put_location(statement.name, made)

    def _drop_location(self, statement: st.DropLocation) -> None:
        self._outside("DROP LOCATION")
        if statement.name not in self.engine.locations and not statement.if_exists:
            raise SqlError(f"location {decode(statement.name)!r} does not exist")
        self.engine.put_location(statement.name, None)

    def _outside(self, what: str) -> None:
        if self.tx.explicit:
            raise SqlError(f"{what} cannot run inside an explicit transaction", name="Transaction Error")


@dataclass
class Branch:
    """One WHEN of a MERGE; ``values`` are the columns that it stores."""

    number: int
    category: str
    kind: str
    condition: exp.Expr | None
    then: exp.Expr
    values: list[tuple[Column, exp.Expr]]


def _branch(when: exp.When, number: int) -> Branch:
    source = when.args.get("source")
    category = "MATCHED" if when.args.get("matched") else "NOT MATCHED BY SOURCE" if source else "NOT MATCHED"
    then = when.args["then"]
    kind = type(then).__name__.upper() if isinstance(then, exp.Update | exp.Insert) else then.name.upper()
    allowed = {
        "MATCHED": ("UPDATE", "DELETE"),
        "NOT MATCHED": ("INSERT",),
        "NOT MATCHED BY SOURCE": ("UPDATE", "DELETE"),
    }
    if kind not in (*allowed[category], "DO NOTHING"):
        raise refused(f"WHEN {category} THEN {kind}")
    return Branch(number, category, kind, when.args.get("condition"), then, [])


def _marked_source(using: exp.Expr) -> tuple[str, exp.Expr]:
    """The source of a MERGE with a column that is set in each of its rows, and its alias."""
    alias = using.alias or (dialect.table_alias(using) if isinstance(using, exp.Table) else "")
    if not alias:
        raise SqlError("MERGE: a subquery needs an alias", name="Parse Error")
    star = exp.Star()
    star.meta["all"] = True
    marked = exp.Select(expressions=[star, exp.alias_(exp.true(), HIT, quoted=True)]).from_(using.copy())
    return alias, exp.Subquery(this=marked, alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))


def _name(name: str, table: str | None = None) -> exp.Column:
    return exp.Column(
        this=exp.to_identifier(name, quoted=True), table=exp.to_identifier(table, quoted=True) if table else None
    )


def _cast(node: exp.Expr, kind: FbType) -> exp.Expr:
    return exp.Cast(this=node, to=_data_type(kind.duckdb).copy())


@functools.lru_cache(maxsize=256)
def _data_type(duckdb_type: str) -> exp.DataType:
    return exp.DataType.build(duckdb_type, dialect="duckdb")


def _as_query(source: exp.Expr) -> tuple[exp.Expr, list[exp.Expr | None]]:
    """The source of an INSERT as a query, and for each column an expression that stands for all of its origins."""
    if isinstance(source, exp.Values):
        rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in source.expressions]
        if len({len(row) for row in rows}) != 1:
            raise SqlError("VALUES: all tuples need the same number of values", name="Parse Error")
        aliases = [exp.to_identifier(f"v{i}", quoted=True) for i in range(len(rows[0]))]
        values = source.copy()
        values.set("alias", exp.TableAlias(this=exp.to_identifier("v", quoted=True), columns=aliases))
        return exp.Select(expressions=[exp.Star()]).from_(values), _common(rows)
    outputs = [s.expressions for s in source.find_all(exp.Select) if _branch_of(s, source)]
    if not outputs or any(e.is_star for o in outputs for e in o):
        return source.copy(), []
    return source.copy(), _common(outputs)


def _common(rows: list[list[exp.Expr]]) -> list[exp.Expr | None]:
    """Per column the first expression if all are of its sort (literal, computed), else the first that is not."""
    columns = zip(*rows, strict=False)
    return [next((e for e in c if not dialect.is_literal(e)), c[0]) for c in columns]


def _branch_of(select: exp.Select, source: exp.Expr) -> bool:
    node: exp.Expr | None = select
    while node is not None and node is not source:
        node = node.parent
        if not isinstance(node, exp.Union) and node is not source:
            return False
    return True


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _from_duckdb(error: duckdb.Error) -> SqlError:
    """The evaluator's error with Firebolt names in it."""
    text = decode(str(error)) if "^" in str(error).split("LINE ")[0] else str(error)
    text = text.split("\n\nLINE ")[0].strip()
    return SqlError(text, name=type(error).__name__.removesuffix("Exception") + " Error")


# ---------------------------------------------------------------- values as JSON


def _json_column(column: pa.ChunkedArray, kind: FbType, zone: ZoneInfo) -> list[Any]:
    if kind.name == "timestamptz":
        column = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
        return [None if v is None else _zoned(v, zone) for v in column.to_pylist()]
    return [_json(v, kind) for v in column.to_pylist()]


def _zoned(micros: int, zone: ZoneInfo) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).astimezone(zone)
    offset = moment.strftime("%z")
    return _plain(moment) + offset[:3] + (f":{offset[3:5]}" if offset[3:5] != "00" else "")


def _plain(moment: datetime) -> str:
    text = f"{moment.year:04d}" + moment.strftime("-%m-%d %H:%M:%S")
    return text + (f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else "")


def _json(value: Any, kind: FbType) -> Any:
    if value is None:
        return None
    if kind.element is not None:
        return [_json(v, kind.element) for v in value]
    if kind.name == "bigint":
        if not -LIVE - 1 <= int(value) <= LIVE:
            raise SqlError("bigint out of range", name="Overflow Error")
        return str(int(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime):
        return _plain(value)
    if isinstance(value, date):
        return f"{value.year:04d}" + value.strftime("-%m-%d")
    return value if isinstance(value, bool | int | str) else str(value)
