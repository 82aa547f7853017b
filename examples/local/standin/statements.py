"""Statements other than queries and DML: a small parser for exactly the documented syntax.

Pages under docs.firebolt.io "Commands": CREATE TABLE, CREATE TABLE AS SELECT, ALTER TABLE, DROP TABLE,
CREATE VIEW, DROP VIEW, CREATE LOCATION, DROP LOCATION, TRUNCATE TABLE, VACUUM, USE; and "Explicit Transactions".
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from . import dialect
from .errors import SqlError, absent, refused
from .fbtypes import FbType, parse_type


@dataclass
class Begin:
    """BEGIN [TRANSACTION]"""


@dataclass
class Commit:
    """COMMIT [TRANSACTION]"""


@dataclass
class Rollback:
    """ROLLBACK [TRANSACTION] [<begin_lsn>]"""

    begin_lsn: str | None = None


@dataclass
class Query:
    """SELECT; ``shape`` is what its types depend on (see ``dialect.shape``)"""

    tree: exp.Expr
    shape: str | None


@dataclass
class Dml:
    """INSERT, UPDATE, DELETE or MERGE; ``shape`` as in Query"""

    tree: exp.Expr
    shape: str | None


@dataclass
class Truncate:
    """TRUNCATE TABLE"""

    table: str


@dataclass
class Column:
    """One column of CREATE TABLE or ADD COLUMN; ``default`` is Firebolt SQL."""

    name: str
    type: FbType
    nullable: bool
    default: str | None


@dataclass
class CreateTable:
    """CREATE TABLE, or CREATE TABLE AS SELECT when ``query`` is set (``names`` are then its column names)."""

    name: str
    if_not_exists: bool
    columns: list[Column] = field(default_factory=list)
    primary_index: list[str] = field(default_factory=list)
    partition_by: list[str] = field(default_factory=list)
    query: str | None = None
    names: list[str] = field(default_factory=list)
    dimension: bool = False


@dataclass
class CreateView:
    """CREATE [OR REPLACE] VIEW"""

    name: str
    query: str
    columns: list[str]
    or_replace: bool
    if_not_exists: bool


@dataclass
class Drop:
    """DROP TABLE, DROP VIEW"""

    kind: str
    name: str
    if_exists: bool
    cascade: bool


@dataclass
class AddColumn:
    """ALTER TABLE ADD COLUMN"""

    table: str
    column: Column
    if_not_exists: bool


@dataclass
class DropColumn:
    """ALTER TABLE DROP COLUMN"""

    table: str
    column: str
    if_exists: bool


@dataclass
class RenameColumn:
    """ALTER TABLE RENAME COLUMN"""

    table: str
    old: str
    new: str
    table_if_exists: bool
    if_exists: bool


@dataclass
class RenameTable:
    """ALTER TABLE RENAME TO"""

    table: str
    new: str
    if_exists: bool


@dataclass
class DropPartition:
    """ALTER TABLE DROP PARTITION; the values are expressions in Firebolt SQL."""

    table: str
    values: list[str]


@dataclass
class CreateLocation:
    """CREATE LOCATION with SOURCE = AMAZON_S3"""

    name: str
    if_not_exists: bool
    url: str
    description: str | None
    ddl: str


@dataclass
class DropLocation:
    """DROP LOCATION"""

    name: str
    if_exists: bool


@dataclass
class Use:
    """USE DATABASE, USE ENGINE"""

    kind: str
    name: str


@dataclass
class Vacuum:
    """VACUUM <table>"""

    table: str


Statement = (
    Begin | Commit | Rollback | Query | Dml | Truncate | CreateTable | CreateView | Drop | AddColumn | DropColumn
    | RenameColumn | RenameTable | DropPartition | CreateLocation | DropLocation | Use | Vacuum
)  # fmt: skip

#: what Firebolt documents and the stand-in lacks
_ABSENT = (
    "COPY", "EXPLAIN", "SHOW", "DESCRIBE", "GRANT", "REVOKE", "CALL", "CANCEL", "START", "STOP", "COMMENT",
    "RECOMMEND", "CLEAR",
)  # fmt: skip
_ABSENT_OBJECTS = (
    "EXTERNAL", "AGGREGATING", "INDEX", "DATABASE", "SCHEMA", "ENGINE", "USER", "ROLE", "LOGIN", "FUNCTION",
    "ICEBERG", "ACCOUNT", "ORGANIZATION",
)  # fmt: skip
_DML_WORDS = ("INSERT", "UPDATE", "DELETE", "MERGE")
_DEFAULT_FUNCTIONS = ("CURRENT_DATE", "LOCALTIMESTAMP", "CURRENT_TIMESTAMP", "NOW")
_PARTITION_FUNCTIONS = ("TO_YYYYMM", "TO_YYYYMMDD", "DATE_TRUNC")


def parse_statement(sql: str) -> Statement:
    """The statement that ``sql`` holds. SqlError for syntax errors and for undocumented SQL.

    The result may be shared between calls: it must not be changed.
    """
    return _parse(sql) if len(sql) < 20_000 else _parse.__wrapped__(sql)


@functools.lru_cache(maxsize=512)
def _parse(sql: str) -> Statement:
    sql, _ = dialect.split_settings(sql)
    start = re.match(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]+|\(|)", sql, re.S)
    word = start[1].upper() if start else ""
    if word in ("SELECT", "WITH", "FROM", "("):
        tree = dialect.parse(sql)
        if not isinstance(tree, exp.Select | exp.Union | exp.Subquery):
            raise refused(f"{word} before {tree.key.upper()}")
        return Query(tree, dialect.shape(sql, tree))
    if word in _DML_WORDS:
        tree = dialect.parse(sql)
        return Dml(tree, dialect.shape(sql, tree))
    reader = _Reader(sql)
    parse = _PARSERS.get(word)
    if parse is None:
        raise (absent if word in _ABSENT else refused)(f"statement {word or 'without text'}")
    reader.next()
    statement = parse(reader)
    reader.end()
    return statement


class _Reader:
    """A cursor over the tokens of a statement."""

    def __init__(self, sql: str) -> None:
        self.sql = dialect._quote_file_columns(sql)
        self.tokens: list[Token] = [part for token in dialect.tokenize(sql) for part in self._words(token)]
        while self.tokens and self.tokens[-1].token_type == TokenType.SEMICOLON:
            self.tokens.pop()
        self.at = 0

    def _words(self, token: Token) -> list[Token]:
        """A token such as ``PARTITION BY`` as one token per word."""
        if " " not in token.text.strip() or token.token_type in (TokenType.STRING, TokenType.IDENTIFIER):
            return [token]
        source = self.sql[token.start : token.end + 1]
        return [
            Token(TokenType.VAR, m[0], start=token.start + m.start(), end=token.start + m.end() - 1)
            for m in re.finditer(r"\S+", source)
        ]

    def peek(self, ahead: int = 0) -> str:
        """The token's text in capitals; empty at the end; quoted names and strings keep a mark."""
        if self.at + ahead >= len(self.tokens):
            return ""
        token = self.tokens[self.at + ahead]
        if token.token_type == TokenType.STRING:
            return "'" + token.text
        return '"' + token.text if token.token_type == TokenType.IDENTIFIER else token.text.upper()

    def next(self) -> Token:
        if self.at >= len(self.tokens):
            raise SqlError("Syntax error: the statement ends too early", name="Parse Error")
        self.at += 1
        return self.tokens[self.at - 1]

    def accept(self, *words: str) -> bool:
        """Consumes the words if they come next; a word may itself hold several (``PRIMARY INDEX``)."""
        flat = [part for word in words for part in word.split()]
        if all(self.peek(i) == part for i, part in enumerate(flat)):
            self.at += len(flat)
            return True
        return False

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            near = self.tokens[self.at].text if self.at < len(self.tokens) else "end of statement"
            raise SqlError(f"Syntax error: expected {' '.join(words)} near {near!r}", name="Parse Error")

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise SqlError(f"Syntax error near {self.tokens[self.at].text!r}", name="Parse Error")

    def name(self) -> str:
        """An identifier, encoded; a schema ``public`` before it is dropped."""
        name = self._identifier()
        if self.accept("."):
            if name != "public":
                raise SqlError(f"schema {dialect.decode(name)!r} does not exist")
            name = self._identifier()
        return name

    def _identifier(self) -> str:
        token = self.next()
        quoted = token.token_type == TokenType.IDENTIFIER
        if not quoted and not (token.text.isidentifier() and token.token_type != TokenType.STRING):
            raise SqlError(f"Syntax error: expected a name near {token.text!r}", name="Parse Error")
        identifier = exp.Identifier(this=token.text, quoted=quoted)
        dialect._check_identifier(identifier)
        return str(identifier.this)

    def names(self) -> list[str]:
        """Identifiers separated by commas."""
        found = [self._identifier()]
        while self.accept(","):
            found.append(self._identifier())
        return found

    def string(self) -> str:
        token = self.next()
        if token.token_type != TokenType.STRING:
            raise SqlError(f"Syntax error: expected a string near {token.text!r}", name="Parse Error")
        return token.text

    def until(self, *stops: str) -> str:
        """The text up to a stop word, comma or closing parenthesis at this level."""
        start, depth = self.at, 0
        while self.at < len(self.tokens):
            word = self.peek()
            if depth == 0 and (word in (",", ")") or word in stops):
                break
            depth += (word in ("(", "[")) - (word in (")", "]"))
            self.at += 1
        return self.text(start, self.at)

    def text(self, start: int, end: int) -> str:
        """The statement's text from token ``start`` up to token ``end``."""
        if start >= end:
            raise SqlError("Syntax error: an expression is missing", name="Parse Error")
        return self.sql[self.tokens[start].start : self.tokens[end - 1].end + 1]

    def rest(self) -> str:
        start, self.at = self.at, len(self.tokens)
        return self.text(start, self.at)


def _begin(reader: _Reader) -> Statement:
    reader.accept("TRANSACTION")
    return Begin()


def _commit(reader: _Reader) -> Statement:
    reader.accept("TRANSACTION")
    return Commit()


def _rollback(reader: _Reader) -> Statement:
    reader.accept("TRANSACTION")
    return Rollback(reader.string() if reader.peek() else None)


def _create(reader: _Reader) -> Statement:
    if reader.accept("OR", "REPLACE"):
        reader.expect("VIEW")
        return _create_view(reader, or_replace=True)
    if reader.accept("VIEW"):
        return _create_view(reader, or_replace=False)
    if reader.accept("LOCATION"):
        return _create_location(reader)
    dimension = reader.accept("DIMENSION")
    if not dimension:
        reader.accept("FACT")
    if not reader.accept("TABLE"):
        raise (absent if reader.peek() in _ABSENT_OBJECTS else refused)(f"CREATE {reader.peek()}")
    return _create_table(reader, dimension)


def _if_not_exists(reader: _Reader) -> bool:
    return reader.accept("IF", "NOT", "EXISTS")


def _create_table(reader: _Reader, dimension: bool) -> Statement:
    if_not_exists = _if_not_exists(reader)
    table = CreateTable(reader.name(), if_not_exists, dimension=dimension)
    if reader.accept("("):
        bare_names = reader.peek(1) in (",", ")")
        if bare_names:
            table.names = reader.names()
        else:
            table.columns = [_column(reader)]
            while reader.accept(","):
                table.columns.append(_column(reader))
        reader.expect(")")
    while reader.peek():
        if reader.accept("PRIMARY", "INDEX"):
            parenthesised = reader.accept("(")
            table.primary_index = reader.names()
            if parenthesised:
                reader.expect(")")
        elif reader.accept("PARTITION", "BY"):
            table.partition_by = [_partition_expression(reader)]
            while reader.accept(","):
                table.partition_by.append(_partition_expression(reader))
        elif reader.accept("AS"):
            table.query = reader.rest()
            dialect.parse(table.query)
        elif reader.accept("WITH", "("):
            _storage_parameters(reader)
        else:
            break
    if bool(table.columns) == bool(table.query):
        raise SqlError("CREATE TABLE needs column definitions or AS SELECT", name="Parse Error")
    return table


def _storage_parameters(reader: _Reader) -> None:
    while True:
        name = reader.next().text.lower()
        if name not in ("index_granularity", "compression", "compression_level", "description"):
            raise refused(f"storage parameter {name}")
        reader.expect("=")
        reader.next()
        if not reader.accept(","):
            break
    reader.expect(")")


_COLUMN_STOPS = ("NULL", "NOT", "DEFAULT", "UNIQUE", "DESCRIPTION", "PRIMARY", "REFERENCES", "CHECK", "GENERATED")


def _column(reader: _Reader) -> Column:
    if reader.peek() in ("PRIMARY", "CONSTRAINT", "UNIQUE", "FOREIGN", "CHECK"):
        raise refused(f"table constraint {reader.peek()}")
    column = Column(reader._identifier(), parse_type(reader.until(*_COLUMN_STOPS)), True, None)
    while True:
        if reader.accept("NOT", "NULL"):
            column.nullable = False
        elif reader.accept("NULL"):
            column.nullable = True
        elif reader.accept("DEFAULT"):
            start = reader.at
            if reader.accept("NULL"):
                column.default = "NULL"
            else:
                reader.until(*_COLUMN_STOPS)
                column.default = reader.text(start, reader.at)
            _check_default(column.default)
        elif reader.accept("DESCRIPTION", "="):
            reader.string()
        elif reader.accept("UNIQUE"):
            pass  # metadata for the optimizer, never enforced (page "ALTER TABLE")
        elif reader.peek() in ("PRIMARY", "REFERENCES", "CHECK", "GENERATED"):
            raise refused(f"column constraint {reader.peek()}")
        else:
            return column


def _check_default(text: str) -> None:
    tree = dialect.parse_expression(text)
    function = isinstance(tree, exp.Anonymous) and str(tree.this).upper() in _DEFAULT_FUNCTIONS
    clock = isinstance(tree, exp.CurrentTimestamp | exp.CurrentDate | exp.Localtimestamp)
    typed = isinstance(tree, exp.Cast) and dialect.is_literal(tree.this)
    if not (function or clock or typed or dialect.is_literal(tree)):
        raise refused(f"DEFAULT {text}")


def _partition_expression(reader: _Reader) -> str:
    text = reader.until("PRIMARY", "AS", "WITH")
    tree = dialect.parse_expression(text)
    function = isinstance(tree, exp.Anonymous) and str(tree.this).upper() in _PARTITION_FUNCTIONS
    if not (isinstance(tree, exp.Column | exp.Extract) or function):
        raise refused(f"PARTITION BY {text}")
    return text


def _create_view(reader: _Reader, or_replace: bool) -> Statement:
    if_not_exists = _if_not_exists(reader)
    if if_not_exists and or_replace:
        raise SqlError("OR REPLACE and IF NOT EXISTS exclude each other", name="Parse Error")
    name, columns = reader.name(), []
    if reader.accept("("):
        columns = reader.names()
        reader.expect(")")
    reader.expect("AS")
    query = reader.rest()
    if not isinstance(dialect.parse(query), exp.Select | exp.Union | exp.Subquery):
        raise SqlError("a view is a SELECT", name="Parse Error")
    return CreateView(name, query, columns, or_replace, if_not_exists)


def _create_location(reader: _Reader) -> Statement:
    if_not_exists = _if_not_exists(reader)
    name = reader.name()
    reader.expect("WITH")
    options: dict[str, str] = {}
    shown: list[str] = []
    while reader.peek():
        reader.accept(",")
        option = reader.next().text.upper()
        reader.expect("=")
        if option == "CREDENTIALS":
            names = _credentials(reader)
            shown.append("CREDENTIALS=(" + " ".join(f"{n}='****'" for n in names) + ")")
            continue
        if option not in ("SOURCE", "URL", "DESCRIPTION"):
            raise refused(f"CREATE LOCATION option {option}")
        options[option] = reader.next().text
        shown.append(f"{option}={dialect.literal(options[option])}")
    if options.get("SOURCE", "").upper() != "AMAZON_S3":
        raise SqlError("the stand-in knows locations with SOURCE = AMAZON_S3 only")
    if not options.get("URL", "").startswith("s3://"):
        raise SqlError("CREATE LOCATION needs URL = 's3://bucket/path'")
    ddl = f"CREATE LOCATION {dialect.quoted(dialect.decode(name))} WITH {' '.join(shown)}"
    return CreateLocation(name, if_not_exists, options["URL"], options.get("DESCRIPTION"), ddl)


def _credentials(reader: _Reader) -> list[str]:
    allowed = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ROLE_ARN",
        "AWS_ROLE_EXTERNAL_ID",
    )
    reader.expect("(")
    names: list[str] = []
    while not reader.accept(")"):
        reader.accept(",")
        name = reader.next().text.upper()
        if name not in allowed:
            raise refused(f"credential {name}")
        reader.expect("=")
        reader.string()
        names.append(name)
    if ("AWS_ROLE_ARN" in names and "AWS_ACCESS_KEY_ID" in names) or not names:
        raise SqlError("CREDENTIALS: either access keys or a role")
    return names


def _drop(reader: _Reader) -> Statement:
    if reader.accept("LOCATION"):
        if_exists = reader.accept("IF", "EXISTS")
        location = DropLocation(reader.name(), if_exists)
        reader.accept("WITH", "FORCE")
        return location
    kind = reader.peek()
    if kind not in ("TABLE", "VIEW"):
        raise (absent if kind in _ABSENT_OBJECTS else refused)(f"DROP {kind}")
    reader.next()
    if_exists = reader.accept("IF", "EXISTS")
    name = reader.name()
    return Drop(kind, name, if_exists, reader.accept("CASCADE"))


def _alter(reader: _Reader) -> Statement:
    if not reader.accept("TABLE"):
        raise (absent if reader.peek() in _ABSENT_OBJECTS else refused)(f"ALTER {reader.peek()}")
    table_if_exists = reader.accept("IF", "EXISTS")
    table = reader.name()
    if reader.accept("RENAME"):
        if reader.accept("TO"):
            return RenameTable(table, reader.name(), table_if_exists)
        reader.expect("COLUMN")
        if_exists = reader.accept("IF", "EXISTS")
        old = reader._identifier()
        reader.expect("TO")
        return RenameColumn(table, old, reader._identifier(), table_if_exists, if_exists)
    if table_if_exists:
        raise refused("ALTER TABLE IF EXISTS other than RENAME")
    if reader.accept("ADD", "COLUMN"):
        if_not_exists = _if_not_exists(reader)
        return AddColumn(table, _column(reader), if_not_exists)
    if reader.accept("DROP", "COLUMN"):
        if_exists = reader.accept("IF", "EXISTS")
        return DropColumn(table, reader._identifier(), if_exists)
    if reader.accept("DROP", "PARTITION"):
        values = [reader.until()]
        while reader.accept(","):
            values.append(reader.until())
        return DropPartition(table, values)
    raise refused(f"ALTER TABLE {reader.peek()} {reader.peek(1)}")


def _truncate(reader: _Reader) -> Statement:
    reader.expect("TABLE")
    return Truncate(reader.name())


def _use(reader: _Reader) -> Statement:
    kind = reader.next().text.upper()
    if kind not in ("DATABASE", "ENGINE"):
        raise refused(f"USE {kind}")
    return Use(kind, dialect.decode(reader._identifier()))


def _vacuum(reader: _Reader) -> Statement:
    return Vacuum(reader.name())


_PARSERS = {
    "BEGIN": _begin,
    "COMMIT": _commit,
    "ROLLBACK": _rollback,
    "CREATE": _create,
    "DROP": _drop,
    "ALTER": _alter,
    "TRUNCATE": _truncate,
    "USE": _use,
    "VACUUM": _vacuum,
}
