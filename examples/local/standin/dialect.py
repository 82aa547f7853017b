"""Firebolt's queries and DML: parsing, refusal of what is undocumented, translation to DuckDB.

Functions come from docs.firebolt.io "Functions reference" (one page each; a function without a page is
refused), clauses from "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", operators from "Operators",
identifiers from "Object identifiers" and "Reserved words".

DuckDB compares identifiers without regard to case; Firebolt does not (quoted ones are exact). So each identifier
is encoded before DuckDB sees it (``Op`` becomes ``^op``); the encoding also keeps our hidden columns apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, cast

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

from .errors import SqlError, refused
from .fbtypes import parse_type

_KEEP_FUNCTION_SYNTAX = ("CAST", "TRY_CAST", "EXTRACT", "POSITION", "SUBSTRING", "TRIM")


class Firebolt(Postgres):
    """Postgres' grammar, in which every function call keeps its name and is looked up in ``FUNCTIONS``."""

    class Tokenizer(Postgres.Tokenizer):
        KEYWORDS: ClassVar[dict[str, TokenType]] = {
            **Postgres.Tokenizer.KEYWORDS,
            "FLOAT": TokenType.DOUBLE,
            "FLOAT8": TokenType.DOUBLE,
            "REAL": TokenType.FLOAT,
            "FLOAT4": TokenType.FLOAT,
            "LONG": TokenType.BIGINT,
        }

    class Parser(PostgresParser):
        FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Callable[..., Any]]] = {
            k: v for k, v in PostgresParser.FUNCTION_PARSERS.items() if k in _KEEP_FUNCTION_SYNTAX
        }


def encode(name: str) -> str:
    """An identifier as DuckDB sees it: different Firebolt names stay different without regard to case."""
    return re.sub(r"[A-Z^]", lambda m: "^" + m[0].lower(), name)


def decode(name: str) -> str:
    """The Firebolt name of an encoded identifier."""
    return re.sub(r"\^(.)", lambda m: m[1].upper(), name)


def quoted(name: str) -> str:
    """A DuckDB identifier (already encoded) in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


# ---------------------------------------------------------------- functions


def _call(name: str, *args: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(args))


def _cast(node: exp.Expr, duckdb_type: str) -> exp.Expr:
    return exp.Cast(this=node, to=exp.DataType.build(duckdb_type, dialect="duckdb"))


def _text(node: exp.Expr) -> str:
    if not (isinstance(node, exp.Literal) and node.is_string):
        raise SqlError(f"{node.sql()} must be a string literal")
    return str(node.this)


_UNITS = (
    "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year",
    "decade", "century", "millennium", "epoch", "dow", "isodow", "doy", "isoyear",
)  # fmt: skip
_INTERVALS = {
    "microsecond": ("to_microseconds", 1), "millisecond": ("to_milliseconds", 1), "second": ("to_seconds", 1),
    "minute": ("to_minutes", 1), "hour": ("to_hours", 1), "day": ("to_days", 1), "week": ("to_weeks", 1),
    "month": ("to_months", 1), "quarter": ("to_months", 3), "year": ("to_years", 1), "decade": ("to_years", 10),
    "century": ("to_years", 100), "millennium": ("to_years", 1000),
}  # fmt: skip


def _date_add(unit: exp.Expr, quantity: exp.Expr, moment: exp.Expr) -> exp.Expr:
    name = _text(unit).lower()
    if name not in _INTERVALS:
        raise SqlError(f"DATE_ADD: unknown unit {name!r}")
    function, factor = _INTERVALS[name]
    amount: exp.Expr = exp.paren(quantity)
    if factor != 1:
        amount = exp.Mul(this=amount, expression=exp.Literal.number(factor))
    if function in ("to_days", "to_weeks", "to_months", "to_years"):
        amount = _cast(amount, "INTEGER")
    return exp.paren(exp.Add(this=exp.paren(moment), expression=_call(function, amount)))


def _with_unit(name: str) -> Callable[..., exp.Expr]:
    def build(unit: exp.Expr, *rest: exp.Expr) -> exp.Expr:
        if _text(unit).lower() not in _UNITS:
            raise SqlError(f"{name.upper()}: unknown unit {_text(unit)!r}")
        return _call(name, exp.Literal.string(_text(unit).lower()), *rest)

    return build


_FORMATS = [
    ("YYYY", "%Y"), ("HH24", "%H"), ("MM", "%m"), ("DD", "%d"), ("MI", "%M"), ("SS", "%S"), ("US", "%f"),
    ("MS", "%g"),
]  # fmt: skip


def _format(node: exp.Expr) -> exp.Expr:
    text = _text(node)
    for theirs, ours in _FORMATS:
        text = text.replace(theirs, ours)
    return exp.Literal.string(text)


def _to_date(text: exp.Expr, pattern: exp.Expr | None = None) -> exp.Expr:
    return _cast(_call("strptime", text, _format(pattern)) if pattern else text, "DATE")


def _to_timestamp(text: exp.Expr, pattern: exp.Expr | None = None) -> exp.Expr:
    if pattern is None:
        return _call("fb_to_timestamp", text)
    return _cast(_cast(_call("strptime", text, _format(pattern)), "TIMESTAMP"), "TIMESTAMPTZ")


def _same(*names: str) -> dict[str, Any]:
    return {name: name.lower() for name in names}


FUNCTIONS: dict[str, str | Callable[..., exp.Expr]] = {
    # aggregation, window
    **_same("COUNT", "SUM", "AVG", "MIN", "MAX", "ANY_VALUE", "APPROX_COUNT_DISTINCT", "ARRAY_AGG", "BIT_AND"),
    **_same("BIT_OR", "BIT_XOR", "BOOL_AND", "BOOL_OR", "MAX_BY", "MIN_BY", "MEDIAN", "PERCENTILE_CONT"),
    **_same("PERCENTILE_DISC", "STDDEV_POP", "STDDEV_SAMP", "CORR", "COVAR_POP", "COVAR_SAMP", "GROUPING"),
    **_same("ROW_NUMBER", "RANK", "DENSE_RANK", "LAG", "LEAD", "FIRST_VALUE", "NTH_VALUE", "NTILE"),
    **_same("PERCENT_RANK", "CUME_DIST"),
    "VARIANCE_POP": "var_pop",
    "VARIANCE_SAMP": "var_samp",
    # conditional
    **_same("COALESCE", "GREATEST", "LEAST", "NULLIF"),
    "IFNULL": "coalesce",
    # date and time (the current time is put in by Binder)
    "DATE": lambda x: _cast(x, "DATE"),
    "DATE_ADD": _date_add,
    "DATE_DIFF": _with_unit("date_diff"),
    "DATE_TRUNC": _with_unit("fb_date_trunc"),
    "TO_CHAR": lambda x, pattern: _call("strftime", x, _format(pattern)),
    "TO_DATE": _to_date,
    "TO_TIMESTAMP": _to_timestamp,
    "TO_YYYYMM": lambda x: _cast(_call("strftime", x, exp.Literal.string("%Y%m")), "INTEGER"),
    "TO_YYYYMMDD": lambda x: _cast(_call("strftime", x, exp.Literal.string("%Y%m%d")), "INTEGER"),
    # numeric
    **_same("ABS", "ACOS", "ASIN", "ATAN", "ATAN2", "CBRT", "CEIL", "CEILING", "COS", "COT", "DEGREES", "EXP"),
    **_same("FLOOR", "LN", "MOD", "PI", "POW", "POWER", "RADIANS", "RANDOM", "ROUND", "SIGN", "SIN", "SQRT"),
    **_same("TAN", "TRUNC", "LOG"),
    "IS_FINITE": "isfinite",
    "IS_INFINITE": "isinf",
    # string
    **_same("CONCAT", "LENGTH", "LOWER", "LPAD", "LTRIM", "MD5", "REPEAT", "REPLACE"),
    **_same("REVERSE", "RPAD", "RTRIM", "SPLIT_PART", "STRPOS", "UPPER", "URL_DECODE", "URL_ENCODE"),
    "BTRIM": "trim",
    "GEN_RANDOM_UUID_TEXT": lambda: _cast(_call("gen_random_uuid"), "VARCHAR"),
    "OCTET_LENGTH": lambda x: _call("octet_length", _cast(x, "BLOB")),
    "REGEXP_EXTRACT": "fb_regexp_extract",
    "REGEXP_LIKE": "regexp_matches",
    "REGEXP_REPLACE": "regexp_replace",
    "REGEXP_REPLACE_ALL": lambda x, p, r: _call("regexp_replace", x, p, r, exp.Literal.string("g")),
    "SPLIT": "string_split",
    "STRING_TO_ARRAY": "string_split",
    "SUBSTR": "substr",
    "TO_DOUBLE": lambda x: _cast(x, "DOUBLE"),
    "TO_FLOAT": lambda x: _cast(x, "FLOAT"),
    "TO_INT": lambda x: _cast(x, "INTEGER"),
    "CONVERT_FROM": lambda x, encoding: _call("decode", x),
    # array
    **_same("ARRAY_CONCAT", "ARRAY_CONTAINS", "ARRAY_DISTINCT", "ARRAY_INTERSECT", "ARRAY_LENGTH", "FLATTEN"),
    **_same("ARRAY_REVERSE", "ARRAY_TO_STRING", "UNNEST"),
    "ARRAY_MAX": "list_max",
    "ARRAY_MIN": "list_min",
    "ARRAY_SORT": "list_sort",
    "ARRAY_SUM": "list_sum",
    "ARRAYS_OVERLAP": "list_has_any",
    "INDEX_OF": "list_position",
}

#: DuckDB macros behind functions that differ by the type of their argument, or that DuckDB has otherwise.
MACROS = (
    "fb_date_trunc(unit, x DATE) AS CAST(date_trunc(unit, x) AS DATE), "
    "(unit, x TIMESTAMP) AS date_trunc(unit, x), (unit, x TIMESTAMPTZ) AS date_trunc(unit, x)",
    "fb_to_timestamp(x DOUBLE) AS to_timestamp(x), (x VARCHAR) AS CAST(x AS TIMESTAMPTZ)",
    "fb_regexp_extract(x, pattern) AS CASE WHEN regexp_matches(x, pattern) THEN regexp_extract(x, pattern) END, "
    "(x, pattern, flags) AS CASE WHEN regexp_matches(x, pattern, flags) "
    "THEN regexp_extract(x, pattern, 0, flags) END, "
    "(x, pattern, flags, part) AS CASE WHEN regexp_matches(x, pattern, flags) "
    "THEN regexp_extract(x, pattern, part, flags) END",
    "fb_bool(x BOOLEAN) AS x",
    r"fb_bytea(x VARCHAR) AS CASE WHEN x LIKE '\x%' THEN unhex(substr(x, 3)) ELSE encode(x) END, (x BLOB) AS x",
)

#: Functions whose value the engine puts in: the clock of the statement, and the session.
CONTEXT_FUNCTIONS = (
    "NOW", "CURRENT_TIMESTAMP", "LOCALTIMESTAMP", "CURRENT_DATE", "CURRENT_TRANSACTION", "CURRENT_DATABASE",
    "CURRENT_ENGINE", "CURRENT_ACCOUNT", "SESSION_USER", "VERSION",
)  # fmt: skip
TABLE_FUNCTIONS = ("READ_PARQUET", "GENERATE_SERIES", "UNNEST")

# ---------------------------------------------------------------- what may occur in a statement

_NODES: frozenset[str] = frozenset(
    [
        "Select",
        "From",
        "Where",
        "Join",
        "Table",
        "TableAlias",
        "Subquery",
        "Identifier",
        "Column",
        "Star",
        "Literal",
        "Null",
        "Boolean",
        "Alias",
        "And",
        "Or",
        "Not",
        "Paren",
        "EQ",
        "NEQ",
        "GT",
        "GTE",
        "LT",
        "LTE",
        "Is",
        "Between",
        "In",
        "Like",
        "ILike",
        "Escape",
        "Exists",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Mod",
        "Pow",
        "Neg",
        "DPipe",
        "Case",
        "If",
        "Cast",
        "TryCast",
        "DataType",
        "DataTypeParam",
        "Interval",
        "Var",
        "Extract",
        "Trim",
        "Substring",
        "StrPosition",
        "Anonymous",
        "Kwarg",
        "Window",
        "WindowSpec",
        "Filter",
        "Distinct",
        "Order",
        "Ordered",
        "Group",
        "Having",
        "Limit",
        "Offset",
        "Union",
        "With",
        "CTE",
        "Tuple",
        "Values",
        "Array",
        "Bracket",
        "NullSafeEQ",
        "NullSafeNEQ",
        "AtTimeZone",
        "CurrentTimestamp",
        "CurrentDate",
        "Localtimestamp",
        "Unnest",
        "Insert",
        "Update",
        "Delete",
        "Merge",
        "When",
        "Whens",
        "Schema",
        "OnConflict",
        "Parameter",
        "ByteString",
        "GroupingSets",
        "Rollup",
        "Cube",
        "WithinGroup",
        "IgnoreNulls",
        "SessionUser",
        "Any",
        "PropertyEQ",
    ]
)
_TYPES = {
    "INT", "BIGINT", "DECIMAL", "FLOAT", "DOUBLE", "TEXT", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ",
    "VARBINARY", "ARRAY", "INTERVAL",
}  # fmt: skip
_RESERVED: frozenset[str] = frozenset(
    [
        "all",
        "alter",
        "and",
        "array",
        "between",
        "bigint",
        "bool",
        "boolean",
        "both",
        "call",
        "case",
        "cast",
        "char",
        "concat",
        "copy",
        "create",
        "cross",
        "current_date",
        "current_timestamp",
        "database",
        "date",
        "datetime",
        "decimal",
        "delete",
        "describe",
        "distinct",
        "double",
        "dow",
        "doy",
        "drop",
        "engine",
        "epoch",
        "except",
        "execute",
        "exists",
        "explain",
        "extract",
        "false",
        "fetch",
        "first",
        "float",
        "from",
        "full",
        "generate",
        "group",
        "having",
        "if",
        "ilike",
        "in",
        "inner",
        "insert",
        "int",
        "integer",
        "intersect",
        "interval",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "left",
        "like",
        "limit",
        "localtimestamp",
        "long",
        "natural",
        "next",
        "not",
        "null",
        "numeric",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "over",
        "partition",
        "precision",
        "prepare",
        "primary",
        "quarter",
        "right",
        "row",
        "rows",
        "sample",
        "select",
        "set",
        "show",
        "system",
        "text",
        "time",
        "timestamp",
        "top",
        "trailing",
        "trim",
        "true",
        "truncate",
        "union",
        "unnest",
        "update",
        "using",
        "varchar",
        "week",
        "when",
        "where",
        "with",
    ]
)
_JOINS = {("", ""), ("", "INNER"), ("", "CROSS"), ("", "OUTER")} | {
    (side, kind) for side in ("LEFT", "RIGHT", "FULL") for kind in ("", "OUTER")
}
#: Page "System settings": what ``SET`` and ``WITH (...)`` may name.
SETTINGS: frozenset[str] = frozenset(
    [
        "timezone",
        "time_zone",
        "standard_conforming_strings",
        "max_result_rows",
        "statement_timeout",
        "cancel_query_on_connection_drop",
        "enable_automated_column_statistics",
        "enable_result_cache",
        "enable_subresult_cache",
        "enable_scan_cache",
        "insert_sharding",
        "tablet_min_size_bytes",
        "tablet_max_size_bytes",
        "max_table_partitions_on_insert",
        "cross_region_request_mode",
        "optimizer_mode",
        "enable_storage_statistics",
        "max_threads",
        "max_insert_threads",
        "late_materialization_max_rows",
        "derive_ndv_from_unique_keys",
        "query_label",
        "warmup",
    ]
)


def tokenize(sql: str) -> list[Token]:
    """The tokens of a statement; SqlError when a literal or comment is not closed."""
    try:
        return Firebolt().tokenize(_quote_file_columns(sql))
    except TokenError as error:
        raise SqlError(f"Syntax error: {error}", name="Parse Error") from error


_SCAN = re.compile(
    r"""[eE]'(?:\\.|''|[^'\\])*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$source_file_\w+""", re.S
)


def _quote_file_columns(sql: str) -> str:
    """``$source_file_name`` and its like are columns; quotes let the Postgres tokenizer read them so."""
    return _SCAN.sub(lambda m: f'"{m[0].lower()}"' if m[0].startswith("$") else m[0], sql)


def parse(sql: str) -> exp.Expr:
    """The syntax tree of one SELECT, INSERT, UPDATE, DELETE or MERGE, checked and with encoded identifiers.

    Raises SqlError for a syntax error and for everything that Firebolt's documentation does not have.
    """
    try:
        trees = sqlglot.parse(_quote_file_columns(sql), read=Firebolt)
    except (ParseError, TokenError) as error:
        raise SqlError(f"Syntax error: {error}", name="Parse Error") from error
    if len(trees) != 1 or trees[0] is None:
        raise SqlError("expected exactly one statement", name="Parse Error")
    tree = trees[0]
    if not isinstance(tree, exp.Select | exp.Union | exp.Subquery | exp.Insert | exp.Update | exp.Delete | exp.Merge):
        raise refused(f"statement {tree.key.upper()}")
    check(tree)
    return tree


def parse_expression(sql: str) -> exp.Expr:
    """The syntax tree of a scalar expression (DEFAULT, PARTITION BY), checked and encoded."""
    tree = parse(f"SELECT {sql}")
    if len(tree.expressions) != 1:
        raise SqlError(f"{sql!r} is not one expression", name="Parse Error")
    return cast(exp.Expr, tree.expressions[0]).pop()


def check(tree: exp.Expr) -> None:
    """Refuses undocumented constructs and encodes the identifiers, in place."""
    for node in tree.walk():
        kind = type(node).__name__
        if kind not in _NODES:
            raise refused(kind.upper())
        if rule := _RULES.get(kind):
            rule(node)


def _check_anonymous(node: exp.Anonymous) -> None:
    name = str(node.this).upper()
    known = name in FUNCTIONS or name in CONTEXT_FUNCTIONS or name in TABLE_FUNCTIONS
    if not known:
        raise refused(f"function {name}")


def _check_identifier(node: exp.Identifier) -> None:
    name = str(node.this)
    if not node.args.get("quoted"):
        name = name.lower()
        if name in _RESERVED:
            raise SqlError(f"{name.upper()} is a reserved word: quote it to use it as a name", name="Parse Error")
    if not 0 < len(name) <= 255:
        raise SqlError("identifiers have 1 to 255 characters")
    node.set("this", encode(name))
    node.set("quoted", True)


def _check_select(node: exp.Select) -> None:
    for clause in ("qualify", "laterals", "sample", "windows", "locks", "into", "kind", "hint", "match", "connect"):
        if node.args.get(clause):
            raise refused(clause.upper())
    if node.args.get("limit") and not isinstance(node.args["limit"], exp.Limit):
        raise refused("FETCH")


def _check_join(node: exp.Join) -> None:
    side, kind = str(node.args.get("side") or "").upper(), str(node.args.get("kind") or "").upper()
    if node.args.get("method") or (side, kind) not in _JOINS:
        raise refused(f"{node.args.get('method') or ''} {side} {kind} JOIN".strip())


def _check_type(node: exp.DataType) -> None:
    name = node.this.value if isinstance(node.this, exp.DataType.Type) else str(node.this)
    if name not in _TYPES:
        raise refused(f"type {node.sql()}")
    if name == "DECIMAL":
        numeric = parse_type(
            "numeric(" + ",".join(e.sql() for e in node.expressions) + ")" if node.expressions else "numeric"
        )
        params = [exp.DataTypeParam(this=exp.Literal.number(n)) for n in numeric.args]
        node.set("expressions", params)


def _check_distinct(node: exp.Distinct) -> None:
    if node.args.get("on"):
        raise refused("DISTINCT ON")


def _check_with(node: exp.With) -> None:
    if node.args.get("recursive"):
        raise refused("WITH RECURSIVE")
    if isinstance(node.parent, exp.Merge | exp.Update | exp.Delete | exp.Insert):
        raise refused(f"WITH before {node.parent.key.upper()}")


def _check_dml(node: exp.Expr) -> None:
    for clause in ("returning", "overwrite", "ignore", "alternative", "limit", "order", "default"):
        if node.args.get(clause):
            raise refused(clause.upper())


def _check_star(node: exp.Star) -> None:
    for clause in ("replace", "rename"):
        if node.args.get(clause):
            raise refused(f"* {clause.upper()}")


def _check_placeholder(node: exp.Expr) -> None:
    raise SqlError("the statement has a parameter without a value")


_RULES: dict[str, Callable[[Any], None]] = {
    "Anonymous": _check_anonymous,
    "Identifier": _check_identifier,
    "Select": _check_select,
    "Join": _check_join,
    "DataType": _check_type,
    "Distinct": _check_distinct,
    "With": _check_with,
    "Insert": _check_dml,
    "Update": _check_dml,
    "Delete": _check_dml,
    "Star": _check_star,
}


def with_parameters(tree: exp.Expr, values: dict[str, Any]) -> exp.Expr:
    """The tree with the values of ``query_parameters`` (page "Parameterized queries") for ``$1``, ``$2`` ..."""
    if not values and not tree.find(exp.Parameter):
        return tree
    tree = tree.copy()
    for node in list(tree.find_all(exp.Parameter)):
        name = f"${node.this.this if isinstance(node.this, exp.Expr) else node.this}"
        if name not in values:
            raise SqlError(f"no value for parameter {name}")
        value = values[name]
        if isinstance(value, list | dict):
            value = json.dumps(value)
        node.replace(exp.convert(value))
    return tree


# ---------------------------------------------------------------- translation


@dataclass
class Context:
    """What a statement's translation needs besides its text: the clock and the session."""

    now: datetime
    database: str
    engine: str
    account: str
    transaction: str
    #: gives the text of a DuckDB subquery for a table, view or table function of the statement
    relation: Callable[[exp.Table], str]
    #: placeholder name -> subquery, filled while translating
    subqueries: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> exp.Expr:
        """The value of one of CONTEXT_FUNCTIONS."""
        moment = self.now.strftime("%Y-%m-%d %H:%M:%S.%f")
        if name in ("NOW", "CURRENT_TIMESTAMP"):
            return _cast(exp.Literal.string(moment + "+00"), "TIMESTAMPTZ")
        if name == "LOCALTIMESTAMP":
            return _cast(_cast(exp.Literal.string(moment + "+00"), "TIMESTAMPTZ"), "TIMESTAMP")
        if name == "CURRENT_DATE":
            return _cast(_cast(exp.Literal.string(moment + "+00"), "TIMESTAMPTZ"), "DATE")
        texts = {
            "CURRENT_TRANSACTION": self.transaction,
            "CURRENT_DATABASE": self.database,
            "CURRENT_ENGINE": self.engine,
            "CURRENT_ACCOUNT": self.account,
            "SESSION_USER": "standin",
            "VERSION": "4.31.0-standin",
        }
        return exp.Literal.string(texts[name])


_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)


def to_duckdb(tree: exp.Expr, context: Context) -> str:
    """The DuckDB text of a checked tree (which is used up)."""
    holder = exp.Paren(this=tree)
    _resolve_tables(holder, context)
    for node in reversed(list(holder.walk())):  # arguments before the call that they belong to
        _translate(node, context)
    text = str(holder.this.sql(dialect="duckdb", copy=False))
    for name, subquery in context.subqueries.items():
        text = text.replace(quoted(name), subquery)
    return text


def strict(tree: exp.Expr) -> exp.Expr:
    """The tree in a form for which DuckDB makes no casts of its own: TEXT to a number or date, a number to BOOLEAN.

    Only for binding (the types are the same, the plan would be slow): Firebolt has no such implicit casts
    (page "Data types", table "Type Conversion"), DuckDB has them for ``=`` and its like but not for BETWEEN, and
    for conditions but not for arguments.
    """
    holder = exp.Paren(this=tree.copy())
    for node in list(holder.find_all(*_COMPARISONS)):
        left, right = node.this, node.expression
        if any(isinstance(side, exp.Tuple | exp.Any | exp.All) for side in (left, right)):
            continue
        between = exp.Between(this=exp.paren(left), low=exp.paren(right), high=exp.paren(right.copy()))
        node.replace(between)
    for test in list(holder.find_all(exp.In)):
        if test.expressions and not any(isinstance(e, exp.Tuple) for e in [test.this, *test.expressions]):
            item = exp.paren(test.this)
            tests = [exp.Between(this=item.copy(), low=e.copy(), high=e.copy()) for e in test.expressions]
            test.replace(exp.paren(exp.or_(*tests)))
    for clause in list(holder.find_all(exp.Where, exp.Having)):
        clause.set("this", _call("fb_bool", clause.this))
    for join in list(holder.find_all(exp.Join)):
        if join.args.get("on"):
            join.set("on", _call("fb_bool", join.args["on"]))
    result: exp.Expr = holder.this
    return result


def shape(sql: str, tree: exp.Expr) -> str | None:
    """The statement with each plain string literal as ``?``: same shape, same catalog, same types of all expressions.

    None if a string can matter: as the name of an output under ``*``, as the unit of EXTRACT, as the address of a file.
    """
    for node in tree.find_all(exp.Star, exp.Extract, exp.Anonymous):
        counted = isinstance(node, exp.Star) and isinstance(node.parent, exp.Anonymous)
        if not counted and (not isinstance(node, exp.Anonymous) or str(node.this).upper() in TABLE_FUNCTIONS):
            return None
    return _SCAN.sub(lambda m: "?" if m[0].startswith("'") else m[0], sql)


def _resolve_tables(holder: exp.Expr, context: Context) -> None:
    for table in list(holder.find_all(exp.Table)):
        if isinstance(table.this, exp.Anonymous) and str(table.this.this).upper() != "READ_PARQUET":
            continue
        if not isinstance(table.this, exp.Anonymous) and not table.args.get("db") and is_cte(table):
            continue
        alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table_alias(table), quoted=True))
        name = f"^~{id(context):x}~{len(context.subqueries)}~"
        context.subqueries[name] = "(" + context.relation(table) + ")"
        joins = table.args.get("joins")
        put = exp.Table(this=exp.to_identifier(name, quoted=True), alias=alias.copy(), joins=joins)
        put.meta["files"] = isinstance(table.this, exp.Anonymous)
        table.replace(put)


def table_alias(table: exp.Table) -> str:
    """The encoded name under which a table's columns are known."""
    if table.alias:
        return str(table.alias)
    if isinstance(table.this, exp.Anonymous):
        return str(table.this.this).lower()
    return str(table.name)


def is_cte(table: exp.Table) -> bool:
    """Whether the name is that of a common table expression around it."""
    node: exp.Expr | None = table
    while node is not None:
        with_ = node.args.get("with_") or node.args.get("with")
        if with_ and any(cte.alias == table.name and not _inside(table, cte) for cte in with_.expressions):
            return True
        node = node.parent
    return False


def _inside(node: exp.Expr, ancestor: exp.Expr) -> bool:
    current: exp.Expr | None = node
    while current is not None:
        if current is ancestor:
            return True
        current = current.parent
    return False


def _translate(node: exp.Expr, context: Context) -> None:
    if isinstance(node, exp.CurrentTimestamp | exp.CurrentDate | exp.Localtimestamp | exp.SessionUser):
        name = {"currenttimestamp": "NOW", "currentdate": "CURRENT_DATE", "localtimestamp": "LOCALTIMESTAMP"}
        node.replace(context.value(name.get(node.key, "SESSION_USER")))
    elif isinstance(node, exp.ByteString):
        node.replace(_byte_string(str(node.this)))
    elif isinstance(node, exp.Anonymous):
        name_ = str(node.this).upper()
        if name_ in CONTEXT_FUNCTIONS:
            node.replace(context.value(name_))
        elif name_ in FUNCTIONS:
            target = FUNCTIONS[name_]
            if isinstance(target, str):
                node.set("this", target)
                return
            try:
                node.replace(target(*node.expressions))
            except TypeError as error:
                raise SqlError(f"{name_}: wrong number of arguments") from error
    elif isinstance(node, exp.Column) and node.args.get("db"):
        node.set("db", None)
        node.set("catalog", None)
    elif isinstance(node, exp.Star) and isinstance(node.parent, exp.Select | exp.Column):
        _hide_file_columns(node)
    elif isinstance(node, exp.Cast) and _is_bytea(node.to):
        node.replace(bytea_literal(node.this) if _is_string(node.this) else _call("fb_bytea", node.this))


def _is_bytea(to: exp.Expr) -> bool:
    return isinstance(to, exp.DataType) and to.this == exp.DataType.Type.VARBINARY


def _is_string(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and bool(node.is_string)


def bytea_literal(node: exp.Expr) -> exp.Expr:
    r"""The BYTEA value of a string literal: ``\x`` and hexadecimal digits, else the bytes of the text."""
    text = str(node.this)
    data = text[2:] if text.startswith("\\x") else text.encode().hex()
    if not re.fullmatch(r"([0-9a-fA-F]{2})*", data):
        raise SqlError(f"invalid bytea literal {text!r}")
    return _call("unhex", exp.Literal.string(data))


def _byte_string(text: str) -> exp.Expr:
    """An E'...' literal, whose escapes the tokenizer has resolved; bytes that are not text become BYTEA."""
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        return exp.Literal.string(text)
    try:
        plain = raw.decode()
    except UnicodeDecodeError:
        return _call("unhex", exp.Literal.string(raw.hex()))
    return _call("unhex", exp.Literal.string(raw.hex())) if "\0" in plain else exp.Literal.string(plain)


FILE_COLUMNS = ("$source_file_name", "$source_file_timestamp", "$source_file_size", "$source_file_etag")


def file_columns_used(tree: exp.Expr) -> list[str]:
    """Which of the metadata columns the statement names (they are not part of ``*``)."""
    return sorted({c.name for c in tree.find_all(exp.Column) if c.name in FILE_COLUMNS})


def _hide_file_columns(star: exp.Star) -> None:
    select = star.find_ancestor(exp.Select)
    root = star.root()
    used = file_columns_used(root)
    if select is None or not used or star.meta.get("all"):
        return
    from_ = select.args.get("from_") or select.args.get("from")
    tables: list[exp.Expr] = [from_.this] if from_ else []
    tables += [join.this for join in select.args.get("joins") or []]
    wanted = star.parent.table if isinstance(star.parent, exp.Column) else None
    for table in tables:
        if table.meta.get("files") and (wanted is None or wanted == table.alias):
            star.set("except_", [exp.to_identifier(name, quoted=True) for name in used])
            return


def projections(tree: exp.Expr) -> list[exp.Expr]:
    """The output expressions of a query (of the first SELECT in a UNION)."""
    while isinstance(tree, exp.Union | exp.Subquery):
        tree = tree.this
    return list(tree.expressions)


def output_names(tree: exp.Expr) -> list[str | None]:
    """Names that Firebolt gives to outputs without one (as PostgreSQL does), None where DuckDB's are right."""
    names: list[str | None] = []
    for item in projections(tree):
        if item.is_star:
            return []
        if item.alias or isinstance(item, exp.Column):
            names.append(None)
        elif isinstance(item, exp.Anonymous | exp.Window | exp.Filter):
            inner = item.find(exp.Anonymous)
            names.append(str(inner.this).lower() if inner else "?column?")
        elif isinstance(item, exp.Cast) and isinstance(item.this, exp.Column):
            names.append(decode(item.this.name))
        else:
            names.append("?column?")
    return names


def is_literal(node: exp.Expr) -> bool:
    """Whether an expression is written as a literal (so its type is still open in Firebolt)."""
    node = node.unalias()
    if isinstance(node, exp.Neg | exp.Paren):
        return is_literal(node.this)
    if isinstance(node, exp.Array):
        return all(is_literal(item) for item in node.expressions)
    return isinstance(node, exp.Literal | exp.Null | exp.Boolean | exp.ByteString)


def is_computed(node: exp.Expr) -> bool:
    """Whether a value comes from arithmetic or an aggregate (whose NUMERIC type DuckDB widens)."""
    node = node.unalias()
    if isinstance(node, exp.Paren | exp.Neg):
        return is_computed(node.this)
    if isinstance(node, exp.Anonymous):
        return str(node.this).upper() in ("SUM", "AVG", "ROUND", "ABS", "TRUNC")
    return isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod)


def split_settings(sql: str) -> tuple[str, dict[str, str]]:
    """A statement and the settings of its trailing ``WITH (name = value, ...)`` (page "System settings")."""
    if not re.search(r"\bWITH\s*\([^()]*\)[\s;]*$", sql, re.I):
        return sql, {}
    tokens = tokenize(sql)
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    if not tokens or tokens[-1].token_type != TokenType.R_PAREN:
        return sql, {}
    starts = [i for i, t in enumerate(tokens[:-1]) if t.token_type == TokenType.WITH]
    if not starts or starts[-1] == 0 or tokens[starts[-1] + 1].token_type != TokenType.L_PAREN:
        return sql, {}
    items = list(_setting_items(tokens[starts[-1] + 2 : -1]))
    offset = _quote_file_columns(sql)
    return offset[: tokens[starts[-1]].start], dict(items)


def _setting_items(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    for i in range(0, len(tokens), 4):
        group = tokens[i : i + 4]
        if len(group) < 3 or group[1].token_type != TokenType.EQ or group[0].text.lower() not in SETTINGS:
            raise SqlError(f"unknown setting in WITH: {' '.join(t.text for t in group)}", name="Parse Error")
        yield group[0].text.lower(), group[2].text
