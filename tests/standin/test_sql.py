"""Documented SQL is accepted and means what the documentation says; other SQL is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import firebolt.db
import pytest
from firebolt.utils.exception import FireboltError

LEDGER = """CREATE TABLE IF NOT EXISTS cdc_processed_files (
    file_key TEXT NOT NULL, request_id TEXT, processed_at TIMESTAMPTZ, status TEXT, lambda_arn TEXT,
    attempt_count INT, error_message TEXT) PRIMARY INDEX file_key"""


# ---------------------------------------------------------------- the guide's statements, as typed


@pytest.fixture
def ledger(sql: Any) -> Any:
    sql(LEDGER)
    sql(
        "INSERT INTO cdc_processed_files (file_key, status, processed_at, error_message, attempt_count) VALUES "
        "('fair/sessions/a.parquet', 'completed', CURRENT_TIMESTAMP, NULL, 1),"
        "('fair/sessions/b.parquet', 'failed', CURRENT_TIMESTAMP - INTERVAL '2' HOUR, 'boom', 3),"
        "('fair/events/c.parquet', 'processing', CURRENT_TIMESTAMP - INTERVAL '20' MINUTE, NULL, 1),"
        "('fair/events/d.parquet', 'completed', CURRENT_TIMESTAMP - INTERVAL '40' DAY, NULL, 1)"
    )
    return sql


def test_guide_queries(ledger: Any) -> None:
    assert len(ledger("SELECT * FROM cdc_processed_files LIMIT 10;")) == 4
    newest = ledger(
        "SELECT file_key, status, processed_at FROM cdc_processed_files ORDER BY processed_at DESC LIMIT 20;"
    )
    assert newest[0][0] == "fair/sessions/a.parquet"
    counts = ledger("SELECT status, COUNT(*) as count FROM cdc_processed_files GROUP BY status ORDER BY count DESC;")
    assert counts[0] == ["completed", 2]
    failed = ledger(
        "SELECT file_key, error_message, attempt_count FROM cdc_processed_files WHERE status = 'failed' "
        "ORDER BY processed_at DESC"
    )
    assert failed == [["fair/sessions/b.parquet", "boom", 3]]
    days = ledger(
        "SELECT DATE(processed_at) as date_, COUNT(*) as files, "
        "COUNT(CASE WHEN status = 'completed' THEN 1 END) as successes, "
        "COUNT(CASE WHEN status = 'failed' THEN 1 END) as failures FROM cdc_processed_files "
        "WHERE processed_at >= CURRENT_DATE - INTERVAL '7' DAY GROUP BY DATE(processed_at) ORDER BY 1 DESC"
    )
    assert sum(row[1] for row in days) == 3
    today = ledger(
        "SELECT COUNT(*) AS total_files, COUNT(DISTINCT SPLIT_PART(file_key, '/', 2)) AS tables "
        "FROM cdc_processed_files WHERE DATE(processed_at) >= CURRENT_DATE - INTERVAL '1' DAY"
    )
    assert today == [[3, 2]]


def test_guide_updates(ledger: Any) -> None:
    ledger(
        "UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed' "
        "AND processed_at < CURRENT_TIMESTAMP - INTERVAL '1' HOUR"
    )
    ledger(
        "UPDATE cdc_processed_files SET status = 'failed', error_message = 'Timeout - marked as failed' "
        "WHERE status = 'processing' AND processed_at < CURRENT_TIMESTAMP - INTERVAL '15' MINUTE"
    )
    ledger("DELETE FROM cdc_processed_files WHERE processed_at < CURRENT_TIMESTAMP - INTERVAL '30' DAY")
    rows = ledger("SELECT status, error_message FROM cdc_processed_files ORDER BY file_key")
    assert rows == [["failed", "Timeout - marked as failed"], ["completed", None], ["pending", None]]


def test_guide_duplicates(sql: Any) -> None:
    sql('CREATE TABLE sessions ("sid" TEXT, v INT)')
    sql("INSERT INTO sessions VALUES ('a', 1), ('b', 2), ('a', 3)")
    rows = sql(
        'SELECT COUNT(*) AS total_rows, COUNT(DISTINCT "sid") AS unique_sids, '
        'COUNT(*) - COUNT(DISTINCT "sid") AS duplicates FROM sessions'
    )
    assert rows == [[3, 2, 1]]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("SELECT a FROM t QUALIFY ROW_NUMBER() OVER (ORDER BY a) = 1", "QUALIFY"),
        ("SELECT DISTINCT ON (a) a FROM t", "DISTINCT ON"),
        ("SELECT STRING_AGG(b, ',') FROM t", "STRING_AGG"),
        ("SELECT LIST(b) FROM t", "LIST"),
        ("SELECT POSITION('/' IN b, 2) FROM t", "Syntax error"),
        ("SELECT STRFTIME(CURRENT_TIMESTAMP, '%Y')", "STRFTIME"),
        ("SELECT a::VARCHAR FROM t", "VARCHAR"),
        ("SELECT a::HUGEINT FROM t", "INT128"),
        ("SELECT CAST(a AS VARCHAR(10)) FROM t", "VARCHAR"),
        ("SELECT a FROM t FOR UPDATE", "LOCKS"),
        ("SELECT b ~ 'x' FROM t", "REGEXPLIKE"),
        ("SELECT a FROM t FETCH FIRST 1 ROW ONLY", "FETCH"),
        ("SELECT * FROM t NATURAL JOIN t AS u", "NATURAL"),
        ("SELECT * FROM t TABLESAMPLE (10)", "SAMPLE"),
        ("WITH RECURSIVE r AS (SELECT 1 AS x) SELECT * FROM r", "RECURSIVE"),
        ("SELECT date FROM t", "DATE is a reserved word"),
        ("INSERT INTO t (a) VALUES (1) RETURNING a", "RETURNING"),
        ("UPDATE t SET a = 1 RETURNING a", "RETURNING"),
        ("WITH x AS (SELECT 1 AS a) UPDATE t SET a = 2", "WITH before UPDATE"),
        ("WITH x AS (SELECT 1 AS a) MERGE INTO t USING x ON t.a = x.a WHEN MATCHED THEN DELETE", "WITH before MERGE"),
        ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y') ON CONFLICT (a) DO NOTHING", "exactly one VALUES"),
        ("INSERT INTO t (a, b) VALUES (1, 'x') ON CONFLICT DO NOTHING", "conflict columns"),
        ("INSERT INTO t VALUES (1, 'x') ON CONFLICT (a) DO NOTHING", "column list"),
        ("CREATE TABLE u (a INT PRIMARY KEY)", "PRIMARY"),
        ("CREATE TABLE u (a INT, PRIMARY KEY (a))", "PRIMARY"),
        ("CREATE TABLE u (a SERIAL)", "SERIAL"),
        ("CREATE TABLE u (a JSONB)", "JSONB"),
        ("CREATE TABLE u (a INT CHECK (a > 0))", "CHECK"),
        ("CREATE TABLE u (a INT DEFAULT 1 + 1)", "DEFAULT"),
        ("CREATE TEMP TABLE u (a INT)", "CREATE TEMP"),
        ("CREATE OR REPLACE TABLE u (a INT)", "expected VIEW"),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE UNIQUE"),
        ("CREATE INDEX i ON t (a)", "CREATE INDEX"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "MATERIALIZED"),
        ("ALTER TABLE t ALTER COLUMN a TYPE BIGINT", "ALTER TABLE ALTER COLUMN"),
        ("ALTER TABLE t ADD a2 INT", "ALTER TABLE ADD"),
        ("CREATE SEQUENCE s", "CREATE SEQUENCE"),
        ("COPY t FROM 's3://x/y'", "COPY"),
        ("SAVEPOINT x", "SAVEPOINT"),
        ("PRAGMA version", "PRAGMA"),
        ("ATTACH 'x'", "ATTACH"),
        ("SELECT * FROM duckdb_tables()", "DUCKDB_TABLES"),
        ("SELECT * FROM read_csv('/etc/passwd')", "READ_CSV"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM main.fb_meta", "schema 'main'"),
        ("INSERT INTO information_schema.tables VALUES (1)", "cannot be written"),
        ("SELECT 1; SELECT 2 x x", "Syntax error"),
    ],
)
def test_refused(sql: Any, statement: str, named: str) -> None:
    sql("CREATE TABLE t (a INT, b TEXT)")
    with pytest.raises(FireboltError) as caught:
        sql.cursor.execute(statement, skip_parsing=True)
    assert named in str(caught.value)


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7 / 2", 3),
        ("7.0 / 2", 3.5),
        ("2 ^ 3", 8.0),
        ("'a' || 'b'", "ab"),
        ("LENGTH('abc')", 3),
        ("SPLIT_PART('a/b/c', '/', 2)", "b"),
        ("POSITION('/' IN 'ab/c')", 3),
        ("COALESCE(NULL, 'x')", "x"),
        ("IFNULL(NULL, 'x')", "x"),
        ("IF(1 = 1, 'y', 'n')", "y"),
        ("CASE WHEN 1 IN (1, 2) THEN 'in' ELSE 'out' END", "in"),
        ("'abc' LIKE 'a%'", True),
        ("CAST('5' AS INT)", 5),
        ("'5'::BIGINT", 5),
        ("TRY_CAST('x' AS INT)", None),
        ("1.25::NUMERIC(10,1)", Decimal("1.3")),
        ("'2024-02-03'::DATE", date(2024, 2, 3)),
        ("DATE('2024-02-03 04:05:06'::TIMESTAMP)", date(2024, 2, 3)),
        ("DATE_TRUNC('month', DATE '2024-02-03')", date(2024, 2, 1)),
        ("EXTRACT(YEAR FROM DATE '2024-02-03')", 2024),
        ("DATE_ADD('second', 290, TIMESTAMPTZ '2024-01-01 00:00:00+00')", datetime(2024, 1, 1, 0, 4, 50, tzinfo=UTC)),
        ("TIMESTAMPTZ '2024-01-31 00:00:00+00' - INTERVAL '30' DAY", datetime(2024, 1, 1, tzinfo=UTC)),
        ("DATE_DIFF('day', DATE '2024-01-01', DATE '2024-01-31')", 30),
        ("TO_CHAR(DATE '2024-01-31', 'YYYY-MM-DD')", "2024-01-31"),
        ("TO_YYYYMM(DATE '2024-01-31')", 202401),
        ("TRIM('  x ')", "x"),
        ("SUBSTRING('abcdef' FROM 2 FOR 3)", "bcd"),
        ("E'a\\nb'", "a\nb"),
        ("'a\\nb'", "a\\nb"),
        ("'\\x00ff'::BYTEA", b"\x00\xff"),
        ("GREATEST(1, 2)", 2),
        ("[1, 2]", [1, 2]),
        ("ARRAY_LENGTH(['a'])", 1),
        ("CURRENT_DATABASE()", "firebolt"),
        ("NULL", None),
        ("3000000000", 3_000_000_000),
        ("1e400::TEXT IS NULL OR TRUE", True),
    ],
)
def test_expression(sql: Any, expression: str, value: Any) -> None:
    rows = sql(f"SELECT {expression}")
    assert rows == [[value]]


def test_clock_is_the_engines(make_engine: Any, connect_to: Any) -> None:
    moment = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    sql = connect_to(make_engine(clock=lambda: moment))
    assert sql("SELECT CURRENT_TIMESTAMP, NOW(), CURRENT_DATE, LOCALTIMESTAMP") == [
        [moment, moment, date(2031, 5, 6), moment.replace(tzinfo=None)]
    ]


def test_numeric_parameters(sql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firebolt.db, "paramstyle", "fb_numeric")
    assert sql("SELECT $1, $2, $3 + 1", ["it's", None, 2]) == [["it's", None, 3]]


def test_literal_parameters(sql: Any) -> None:
    sql("CREATE TABLE p (a TEXT, b TIMESTAMPTZ, c BYTEA, d NUMERIC(38,9), e BOOLEAN, f DATE, g ARRAY(TEXT))")
    row = ['it\'s \\ "x" ?', datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), b"\x00\xffab", Decimal("12.5")]
    row += [True, date(2024, 1, 2), ["a", "b'c"]]
    sql("INSERT INTO p VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    assert sql("SELECT * FROM p WHERE a = ?", [row[0]]) == [row]


def test_identifiers_are_case_sensitive_when_quoted(sql: Any) -> None:
    sql('CREATE TABLE "Mixed" ("Op" TEXT, op INT, "a^b" INT, PLAIN INT)')
    sql("INSERT INTO \"Mixed\" VALUES ('I', 1, 2, 3)")
    assert sql('SELECT "Op", OP, "a^b", "plain" FROM "Mixed"') == [["I", 1, 2, 3]]
    assert sql.cursor.description[0].name == "Op"
    with pytest.raises(FireboltError, match="does not exist"):
        sql("SELECT * FROM Mixed")
    with pytest.raises(FireboltError, match="OP"):
        sql('SELECT "OP" FROM "Mixed"')
    sql('SELECT m."Op" FROM "Mixed" AS m WHERE M.op = 1 ORDER BY m."Op"')


def test_nulls_are_the_largest(sql: Any) -> None:
    sql("CREATE TABLE t (a INT)")
    sql("INSERT INTO t VALUES (1), (NULL), (2)")
    assert sql("SELECT a FROM t ORDER BY a") == [[1], [2], [None]]
    assert sql("SELECT a FROM t ORDER BY a DESC") == [[None], [2], [1]]


def test_select_forms(sql: Any) -> None:
    sql("CREATE TABLE t (k TEXT, n INT)")
    sql("INSERT INTO t VALUES ('a', 1), ('a', 3), ('b', 2)")
    latest = (
        "WITH ranked AS (SELECT k, n, ROW_NUMBER() OVER (PARTITION BY k ORDER BY n DESC) AS place FROM t) "
        "SELECT k, n FROM ranked WHERE place = 1 ORDER BY k"
    )
    assert sql(latest) == [["a", 3], ["b", 2]]
    assert sql("SELECT k, SUM(n) FROM t GROUP BY ALL HAVING COUNT(*) > 1") == [["a", 4]]
    assert sql("SELECT x.k FROM t AS x LEFT JOIN t AS y ON x.k = y.k AND y.n > 1 WHERE y.k IS NULL") == []
    assert sql("SELECT n FROM t UNION ALL SELECT 9 ORDER BY 1 DESC LIMIT 1") == [[9]]
    assert sql("SELECT * EXCLUDE (n) FROM t WHERE EXISTS (SELECT 1 FROM t AS u WHERE u.n = t.n + 1)") == [["a"], ["b"]]
    assert sql("SELECT COUNT(*) FILTER (WHERE n > 1) FROM t") == [[2]]
    assert sql.cursor.description[0].name == "count"
    assert sql("SELECT n FROM t ORDER BY n LIMIT 1 OFFSET 1 WITH (max_result_rows = 5)") == [[2]]
    with pytest.raises(FireboltError, match="UNION types"):
        sql("SELECT k FROM t UNION ALL SELECT n FROM t")


@pytest.mark.parametrize(
    "comparison", ["k = n", "n IN (k, k)", "n > k", "n <> k", "k IS DISTINCT FROM n", "n + 1 = k || 'x'", "at = k"]
)
def test_text_is_not_compared_with_other_types(sql: Any, comparison: str) -> None:
    sql("CREATE TABLE t (k TEXT, n INT, at TIMESTAMPTZ)")
    with pytest.raises(FireboltError):
        sql(f"SELECT 1 FROM t WHERE {comparison}")
    with pytest.raises(FireboltError):
        sql("DELETE FROM t WHERE n")
    assert sql("SELECT 1 FROM t WHERE n = '5' AND at > '2024-01-01' AND k IN ('a')") == []


# ---------------------------------------------------------------- assignment


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("INT", "'100'", None),
        ("BIGINT", "CAST('5' AS TEXT)", None),
        ("BIGINT", "5", 5),
        ("INT", "3000000000", None),
        ("INT", "2.6", 3),
        ("INT", "TRUE", None),
        ("TEXT", "5", "5"),
        ("TEXT", "TRUE", "true"),
        ("BOOLEAN", "1", None),
        ("NUMERIC(5,2)", "123.456", Decimal("123.46")),
        ("NUMERIC(5,2)", "1234.5", None),
        ("NUMERIC(5,2)", "CAST(1.5 AS NUMERIC(10,2))", None),
        ("NUMERIC(5,2)", "CAST(1.5 AS DOUBLE PRECISION)", Decimal("1.50")),
        ("REAL", "CAST(1.5 AS NUMERIC(10,2))", None),
        ("TIMESTAMPTZ", "'2024-01-01 00:00:00'", datetime(2024, 1, 1, tzinfo=UTC)),
        ("TIMESTAMPTZ", "'never'", None),
        ("TIMESTAMP", "CURRENT_TIMESTAMP - CURRENT_TIMESTAMP", None),
        ("DATE", "TIMESTAMP '2024-01-02 03:04:05'", date(2024, 1, 2)),
        ("DATE", "5", None),
        ("BYTEA", "'\\x0102'", b"\x01\x02"),
        ("BYTEA", "CAST('x' AS TEXT)", None),
        ("ARRAY(INT)", "[1, 2]", [1, 2]),
        ("ARRAY(INT)", "['a']", None),
        ("TEXT", "E'a\\x00b'", None),
        ("ARRAY(TEXT)", "['a', E'\\x00']", None),
        ("ARRAY(ARRAY(TEXT))", "[['a'], [E'\\x00']]", None),
        ("ARRAY(TEXT)", "['a', NULL]", ["a", None]),
        ("INT NOT NULL", "NULL", None),
    ],
)
def test_assignment(sql: Any, column: str, value: str, stored: Any) -> None:
    sql(f"CREATE TABLE t (a {column})")
    if stored is None:
        with pytest.raises(FireboltError):
            sql(f"INSERT INTO t VALUES ({value})")
        with pytest.raises(FireboltError):
            sql(f"INSERT INTO t SELECT {value}")
        assert sql("SELECT * FROM t") == []
    else:
        sql(f"INSERT INTO t VALUES ({value})")
        sql(f"INSERT INTO t SELECT {value}")
        sql(f"UPDATE t SET a = {value}")
        assert sql("SELECT * FROM t") == [[stored], [stored]]


def test_insert_columns(sql: Any) -> None:
    sql("CREATE TABLE t (a INT NOT NULL, b TEXT DEFAULT 'x', c TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP)")
    sql("INSERT INTO t (a) VALUES (1)")
    assert sql("SELECT a, b, c > CURRENT_TIMESTAMP - INTERVAL '1' MINUTE FROM t") == [[1, "x", True]]
    for statement, named in [
        ("INSERT INTO t VALUES (1, 'x')", "2 expressions for 3 columns"),
        ("INSERT INTO t (a, b) SELECT 1", "1 expressions for 2 columns"),
        ("INSERT INTO t (a, a) VALUES (1, 2)", "twice"),
        ("INSERT INTO t (z) VALUES (1)", "'z' does not exist"),
        ("INSERT INTO t (b) VALUES ('y')", "NOT NULL column 'a'"),
        ("INSERT INTO t (a) VALUES (1), (2, 3)", "same number"),
        ("UPDATE t SET a = NULL", "NOT NULL column 'a'"),
        ("UPDATE t SET z = 1", "'z' does not exist"),
        ("UPDATE t SET a = 1, a = 2", "twice"),
        ("UPDATE nowhere SET a = 1", "'nowhere' does not exist"),
    ]:
        with pytest.raises(FireboltError, match=named):
            sql(statement)


def test_bulk_insert_of_the_sdk(sql: Any) -> None:
    sql("CREATE TABLE t (a INT, b TEXT)")
    sql.cursor.executemany("INSERT INTO t VALUES (?, ?)", [[1, "x"], [2, "y;z"]], bulk_insert=True)
    assert sql("SELECT * FROM t ORDER BY a") == [[1, "x"], [2, "y;z"]]


def test_update_from_and_delete_using(sql: Any) -> None:
    sql("CREATE TABLE t (k INT, v INT)")
    sql("CREATE TABLE s (k INT, d INT)")
    sql("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
    sql("INSERT INTO s VALUES (1, 1), (2, 2), (9, 9)")
    sql("UPDATE t AS x SET v = x.v - s.d FROM s WHERE x.k = s.k")
    assert sql("SELECT v FROM t ORDER BY k") == [[9], [18], [30]]
    sql("DELETE FROM t USING s WHERE t.k = s.k AND s.d = 2")
    assert sql("SELECT k FROM t ORDER BY k") == [[1], [3]]
    sql("INSERT INTO s VALUES (1, 5)")
    with pytest.raises(FireboltError, match="more than one source row"):
        sql("UPDATE t SET v = s.d FROM s WHERE t.k = s.k")
    sql("DELETE FROM t WHERE k IN (SELECT k FROM s)")
    sql("TRUNCATE TABLE s")
    assert sql("SELECT (SELECT COUNT(*) FROM s), (SELECT COUNT(*) FROM t)") == [[0, 1]]


def test_insert_on_conflict(sql: Any) -> None:
    sql("CREATE TABLE t (k TEXT, v INT, at TIMESTAMPTZ)")
    upsert = "INSERT INTO t (k, v) VALUES ('a', 1) ON CONFLICT (k) "
    sql(upsert + "DO NOTHING")
    sql(upsert + "DO NOTHING")
    sql(upsert + "DO UPDATE SET v = EXCLUDED.v + t.v, at = NOW()")
    assert sql("SELECT k, v, at IS NULL FROM t") == [["a", 2, False]]
    sql(upsert + "DO UPDATE SET *")
    assert sql("SELECT v FROM t") == [[1]]


# ---------------------------------------------------------------- DDL


def test_information_schema(sql: Any) -> None:
    sql(
        "CREATE TABLE t (a INT NOT NULL, b NUMERIC(38, 9), c TEXT, d BIGINT, e DOUBLE PRECISION, f REAL, g BOOLEAN, "
        "h DATE, i TIMESTAMP, j TIMESTAMPTZ, k BYTEA, l ARRAY(TEXT), m LONG, n DECIMAL) "
        "PRIMARY INDEX a, c PARTITION BY a"
    )
    rows = sql(
        "SELECT column_name, data_type, is_nullable, is_in_primary_index, is_in_partition_expr "
        "FROM information_schema.columns WHERE table_name = 't' ORDER BY ordinal_position"
    )
    assert rows[0] == ["a", "integer", "NO", "YES", "YES"]
    types = "numeric(38, 9)|text|bigint|double precision|real|boolean|date|timestamp|timestamptz|bytea|array(text)"
    assert [row[1] for row in rows[1:]] == [*types.split("|"), "bigint", "numeric(38, 9)"]
    sql("INSERT INTO t (a) VALUES (1), (2)")
    assert sql("SELECT table_type, type, number_of_rows FROM information_schema.tables WHERE table_name = 't'") == [
        ["BASE TABLE", "FACT", 2]
    ]
    assert sql("SELECT status FROM information_schema.engines") == [["RUNNING"]]
    history = sql("SELECT query_text, status FROM information_schema.engine_query_history")
    assert ["INSERT INTO t (a) VALUES (1), (2)", "ENDED_SUCCESSFULLY"] in history
    with pytest.raises(FireboltError, match=r"information_schema\.nothing"):
        sql("SELECT * FROM information_schema.nothing")


def test_partition_columns_are_not_null(sql: Any) -> None:
    with pytest.raises(FireboltError, match="NOT NULL"):
        sql("CREATE TABLE t (a INT) PARTITION BY a")
    with pytest.raises(FireboltError, match="does not exist"):
        sql("CREATE TABLE t (a INT) PRIMARY INDEX b")


def test_views(sql: Any) -> None:
    sql("CREATE TABLE t (a INT, b TEXT)")
    sql("INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    sql("CREATE VIEW v (n, Txt) AS SELECT a + 1, b FROM t WHERE a > 1")
    assert sql("SELECT n, txt FROM v") == [[3, "y"]]
    assert sql("SELECT table_name FROM information_schema.views") == [["v"]]
    with pytest.raises(FireboltError, match="already exists"):
        sql("CREATE VIEW v AS SELECT 1 AS x")
    sql("CREATE OR REPLACE VIEW v AS SELECT b FROM t")
    sql("CREATE VIEW IF NOT EXISTS v AS SELECT a FROM t")
    assert sql("SELECT * FROM v AS w ORDER BY w.b") == [["x"], ["y"]]
    for blocked in ("DROP TABLE t", "ALTER TABLE t ADD COLUMN c INT", "ALTER TABLE t RENAME TO u"):
        with pytest.raises(FireboltError, match="view 'v'"):
            sql(blocked)
    with pytest.raises(FireboltError, match="is a view"):
        sql("DELETE FROM v")
    sql("DROP TABLE t CASCADE")
    with pytest.raises(FireboltError, match="does not exist"):
        sql("SELECT * FROM v")


def test_alter_table(sql: Any) -> None:
    sql("CREATE TABLE t (a INT)")
    sql("INSERT INTO t VALUES (1)")
    sql('ALTER TABLE t ADD COLUMN "B" NUMERIC(5,2) NULL')
    sql("ALTER TABLE t ADD COLUMN IF NOT EXISTS c TEXT NOT NULL DEFAULT 'old'")
    sql("ALTER TABLE t ADD COLUMN IF NOT EXISTS c TEXT NOT NULL DEFAULT 'old'")
    sql("INSERT INTO t VALUES (2, 1.5, 'new')")
    assert sql("SELECT * FROM t ORDER BY a") == [[1, None, "old"], [2, Decimal("1.50"), "new"]]
    sql("ALTER TABLE t RENAME COLUMN c TO d")
    sql("ALTER TABLE t DROP COLUMN a")
    sql("ALTER TABLE t RENAME TO u")
    assert sql('SELECT "B", d FROM u ORDER BY d') == [[Decimal("1.50"), "new"], [None, "old"]]
    sql("ALTER TABLE IF EXISTS t RENAME TO w")
    for statement, named in [
        ("ALTER TABLE u ADD COLUMN d INT", "already exists"),
        ("ALTER TABLE u ADD COLUMN e INT NOT NULL", "needs a DEFAULT"),
        ("ALTER TABLE u RENAME COLUMN d TO d", "already exists"),
        ("ALTER TABLE u DROP COLUMN zz", "does not exist"),
        ("ALTER TABLE zz RENAME TO y", "does not exist"),
        ("CREATE TABLE u (a INT)", "already exists"),
        ("DROP VIEW u", "is not a view"),
        ("DROP TABLE zz", "does not exist"),
    ]:
        with pytest.raises(FireboltError, match=named):
            sql(statement)
    sql("DROP TABLE IF EXISTS zz")


def test_create_table_as(sql: Any) -> None:
    sql("CREATE TABLE t PRIMARY INDEX a AS SELECT 1 AS a, 'x' AS b, 1.5::NUMERIC(5,2) AS c")
    sql("CREATE TABLE u (x, y) AS SELECT a, b FROM t")
    assert sql("SELECT * FROM t") == [[1, "x", Decimal("1.50")]]
    assert sql("SELECT x, y FROM u") == [[1, "x"]]


def test_drop_partition(sql: Any) -> None:
    sql("CREATE TABLE t (d DATE NOT NULL, k TEXT NOT NULL) PARTITION BY DATE_TRUNC('month', d), k")
    sql("INSERT INTO t VALUES ('2024-01-05', 'a'), ('2024-02-05', 'a'), ('2024-01-06', 'b')")
    sql("ALTER TABLE t DROP PARTITION DATE '2024-01-01', 'a'")
    assert sql("SELECT COUNT(*) FROM t") == [[2]]
    with pytest.raises(FireboltError, match="one value per"):
        sql("ALTER TABLE t DROP PARTITION 'a'")


def test_ddl_rolls_back(sql: Any, begin: Callable[[], Any]) -> None:
    sql("CREATE TABLE t (a INT)")
    sql("INSERT INTO t VALUES (1)")
    sql("CREATE TABLE gone (a INT)")
    one = begin()
    one("CREATE TABLE fresh (a INT)")
    one("INSERT INTO fresh VALUES (1)")
    one("ALTER TABLE t ADD COLUMN b INT DEFAULT 7")
    one("UPDATE t SET b = b + 1")
    one("DROP TABLE gone")
    one("CREATE VIEW v AS SELECT * FROM t")
    one("ALTER TABLE fresh RENAME TO newer")
    assert one("SELECT t.b, n.a FROM v AS t, newer AS n") == [[8, 1]]
    assert one("SELECT COUNT(*) FROM information_schema.columns WHERE table_name = 't'") == [[2]]
    one.rollback()
    names = sql("SELECT table_name FROM information_schema.tables ORDER BY table_name")
    assert names == [["gone"], ["t"]]
    assert sql("SELECT * FROM t") == [[1]]


def test_ddl_and_data_commit_together(sql: Any, begin: Callable[[], Any]) -> None:
    sql("CREATE TABLE t (a INT)")
    sql("INSERT INTO t VALUES (1), (2)")
    one = begin()
    one("INSERT INTO t VALUES (3)")
    one("ALTER TABLE t ADD COLUMN b INT DEFAULT 7")
    one("INSERT INTO t VALUES (4, 4)")
    one("UPDATE t SET b = 1 WHERE a = 1")
    one("CREATE TABLE t_new AS SELECT a, b FROM t")
    one("DROP TABLE t")
    one("ALTER TABLE t_new RENAME TO t")
    assert one("SELECT * FROM t ORDER BY a") == [[1, 1], [2, 7], [3, 7], [4, 4]]
    assert sql("SELECT * FROM t ORDER BY a") == [[1], [2]]
    one.commit()
    assert sql("SELECT * FROM t ORDER BY a") == [[1, 1], [2, 7], [3, 7], [4, 4]]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("CREATE TABLE x (a INT)", "CREATE TABLE x (b INT)"),
        ("CREATE TABLE IF NOT EXISTS x (a INT)", "CREATE TABLE IF NOT EXISTS x (a INT)"),
        ("INSERT INTO t VALUES (1)", "DROP TABLE t"),
        ("INSERT INTO t VALUES (1)", "ALTER TABLE t ADD COLUMN b INT"),
        ("INSERT INTO t VALUES (1)", "ALTER TABLE t RENAME TO u"),
        ("ALTER TABLE t ADD COLUMN b INT", "ALTER TABLE t ADD COLUMN c INT"),
        ("ALTER TABLE t ADD COLUMN b INT", "INSERT INTO t VALUES (1)"),
        ("DROP TABLE t", "UPDATE t SET a = 2"),
        ("CREATE VIEW v AS SELECT a FROM t", "DROP TABLE t"),
        ("ALTER TABLE t RENAME TO x", "CREATE TABLE x (a INT)"),
    ],
)
def test_metadata_is_serializable(sql: Any, begin: Callable[[], Any], mine: str, theirs: str) -> None:
    sql("CREATE TABLE t (a INT)")
    sql("INSERT INTO t VALUES (0)")
    one = begin()
    one(mine)
    sql(theirs)
    with pytest.raises(FireboltError, match="Failed to commit transaction"):
        one.commit()


def test_reader_keeps_its_tables(sql: Any, begin: Callable[[], Any]) -> None:
    sql("CREATE TABLE t (a INT)")
    sql("INSERT INTO t VALUES (1)")
    reader = begin()
    reader("SELECT 1")
    sql("DROP TABLE t")
    sql("CREATE TABLE t (b TEXT)")
    assert reader("SELECT a FROM t") == [[1]]
    reader.commit()
    assert sql("SELECT b FROM t") == []


@pytest.mark.parametrize("statement", ["CREATE LOCATION l WITH SOURCE = AMAZON_S3 URL = 's3://b/'", "DROP LOCATION l"])
def test_locations_stay_outside_transactions(begin: Callable[[], Any], statement: str) -> None:
    with pytest.raises(FireboltError, match="cannot run inside an explicit transaction"):
        begin()(statement)


# ---------------------------------------------------------------- MERGE


@pytest.fixture
def merge(sql: Any) -> Any:
    sql('CREATE TABLE t (k BIGINT NOT NULL, v TEXT, "_cdc_seq" TEXT) PRIMARY INDEX k')
    sql("INSERT INTO t VALUES (1, 'one', '05'), (2, 'two', '05'), (3, 'three', NULL)")
    sql('CREATE TABLE s (k BIGINT, v TEXT, "_cdc_op" TEXT, "_cdc_seq" TEXT)')
    return sql


CDC_MERGE = """
MERGE INTO "t" AS t
USING (SELECT s.k, s.v, s."_cdc_op", s."_cdc_seq" FROM s LEFT JOIN (SELECT 99 AS k) AS d ON d.k = s.k WHERE d.k IS NULL)
 AS s ON t."k" = s."k"
WHEN MATCHED AND s."_cdc_op" = 'D' AND (t."_cdc_seq" IS NULL OR t."_cdc_seq" < s."_cdc_seq") THEN DELETE
WHEN MATCHED AND (t."_cdc_seq" IS NULL OR t."_cdc_seq" < s."_cdc_seq")
 THEN UPDATE SET "v" = s."v", "_cdc_seq" = s."_cdc_seq"
WHEN NOT MATCHED AND s."_cdc_op" <> 'D' THEN INSERT ("k", "v", "_cdc_seq") VALUES (s."k", s."v", s."_cdc_seq")
"""


def test_merge_of_changes(merge: Any) -> None:
    merge(
        "INSERT INTO s VALUES (1, 'new', 'U', '07'), (2, 'late', 'U', '04'), (3, NULL, 'D', '06'), "
        "(4, 'four', 'I', '06'), (5, NULL, 'D', '09'), (99, 'hidden', 'I', '09')"
    )
    merge(CDC_MERGE)
    expected = [[1, "new", "07"], [2, "two", "05"], [4, "four", "06"]]
    assert merge("SELECT * FROM t ORDER BY k") == expected
    merge(CDC_MERGE)
    assert merge("SELECT * FROM t ORDER BY k") == expected


def test_merge_twice_in_one_transaction(merge: Any, begin: Callable[[], Any]) -> None:
    merge("INSERT INTO s VALUES (1, 'new', 'U', '07'), (4, 'four', 'I', '06')")
    one = begin()
    one(CDC_MERGE)
    one("""UPDATE s SET v = 'newer', "_cdc_seq" = '10'""")
    one(CDC_MERGE)
    one.commit()
    assert merge("SELECT k, v FROM t ORDER BY k") == [[1, "newer"], [2, "two"], [3, "three"], [4, "newer"]]


def test_merge_branches(merge: Any) -> None:
    merge("INSERT INTO s VALUES (1, 'a', 'U', '1'), (7, 'b', 'U', '1'), (8, 'c', 'U', '1')")
    merge(
        "MERGE INTO t USING s ON t.k = s.k WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED AND s.v = 'b' THEN DO NOTHING "
        "WHEN NOT MATCHED BY TARGET THEN INSERT (k, v) VALUES (s.k, s.v) "
        "WHEN NOT MATCHED BY SOURCE AND t.k = 2 THEN DELETE WHEN NOT MATCHED BY SOURCE THEN UPDATE SET v = 'lost'"
    )
    assert merge("SELECT k, v FROM t ORDER BY k") == [[1, "one"], [3, "lost"], [8, "c"]]


def test_merge_with_subqueries(merge: Any) -> None:
    merge("INSERT INTO s VALUES (1, 'a', 'U', '1'), (7, 'b', 'U', '1')")
    merge(
        "MERGE INTO t USING s ON t.k = s.k "
        "WHEN MATCHED AND EXISTS (SELECT 1 FROM t AS z WHERE z.k = 3) THEN UPDATE SET v = (SELECT MAX(v) FROM s) "
        "WHEN NOT MATCHED AND s.k NOT IN (SELECT k FROM t) THEN INSERT (k, v) VALUES (s.k, s.v)"
    )
    assert merge("SELECT k, v FROM t ORDER BY k") == [[1, "b"], [2, "two"], [3, "three"], [7, "b"]]


def test_merge_star(merge: Any) -> None:
    merge(
        "MERGE INTO t USING (VALUES (1, 'x', '9'), (9, 'y', '9')) AS src (k, v, _cdc_seq) ON t.k = src.k "
        "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    )
    assert merge("SELECT k, v FROM t ORDER BY k") == [[1, "x"], [2, "two"], [3, "three"], [9, "y"]]
    with pytest.raises(FireboltError, match="same column names"):
        merge("MERGE INTO t USING s ON t.k = s.k WHEN NOT MATCHED THEN INSERT *")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("WHEN MATCHED THEN DELETE WHEN MATCHED AND s.k = 1 THEN DO NOTHING", "unreachable"),
        ("WHEN MATCHED THEN INSERT (k) VALUES (s.k)", "WHEN MATCHED THEN INSERT"),
        ("WHEN NOT MATCHED THEN DELETE", "WHEN NOT MATCHED THEN DELETE"),
        ("WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k)", "1 values for 2 columns"),
        ("WHEN NOT MATCHED THEN INSERT (k) VALUES (s.v)", "explicit cast"),
        ("WHEN NOT MATCHED THEN INSERT (v) VALUES (s.v)", "NOT NULL column 'k'"),
        ("WHEN MATCHED THEN UPDATE SET k = NULL", "NOT NULL column 'k'"),
        ("WHEN MATCHED THEN UPDATE SET nope = 1", "does not exist"),
    ],
)
def test_merge_refusals(merge: Any, statement: str, named: str) -> None:
    merge("INSERT INTO s VALUES (1, 'a', 'U', '1'), (7, 'b', 'U', '1')")
    with pytest.raises(FireboltError, match=named):
        merge(f"MERGE INTO t USING s ON t.k = s.k {statement}")
    with pytest.raises(FireboltError):
        merge("MERGE INTO t USING s ON t.k = s.v WHEN MATCHED THEN DELETE")


@pytest.mark.parametrize("duplicates", ["error", "any"])
def test_merge_with_several_matches(make_engine: Any, connect_to: Any, duplicates: str) -> None:
    sql = connect_to(make_engine(merge_duplicates=duplicates))
    sql("CREATE TABLE t (k INT, v INT)")
    sql("INSERT INTO t VALUES (1, 0)")
    statement = "MERGE INTO t USING (VALUES (1, 5), (1, 6)) AS s (k, v) ON t.k = s.k "
    sql(statement + "WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k, s.v)")
    if duplicates == "error":
        with pytest.raises(FireboltError, match="more than one source row"):
            sql(statement + "WHEN MATCHED THEN UPDATE SET v = s.v")
    else:
        sql(statement + "WHEN MATCHED THEN UPDATE SET v = s.v")
        assert sql("SELECT COUNT(*), MIN(v) IN (5, 6) FROM t") == [[1, True]]


def test_statements_that_differ_in_strings_only_are_bound_once_per_catalog(sql: Any) -> None:
    query = "SELECT b FROM t WHERE b = '{}'"
    sql("CREATE TABLE t (a INT, b TEXT)")
    for text in ("x", "y"):
        sql(f"INSERT INTO t VALUES (1, '{text}')")
        assert sql(query.format(text)) == [[text]]
    sql("ALTER TABLE t RENAME COLUMN b TO c")
    sql("ALTER TABLE t ADD COLUMN b TIMESTAMP DEFAULT NULL")
    sql("UPDATE t SET b = '2020-01-01 00:00:00'")
    assert sql(query.format("2020-01-01 00:00:00")) == [[datetime(2020, 1, 1)]] * 2
    with pytest.raises(FireboltError):
        sql("INSERT INTO t (a, b) VALUES (1, 'no moment')")
    with pytest.raises(FireboltError, match="is of type"):
        sql("UPDATE t SET a = c || 'x'")


def test_a_string_that_matters_to_names_or_types_is_bound_each_time(sql: Any) -> None:
    for text in ("x", "y"):
        sql(f"SELECT * FROM (SELECT '{text}')")
        assert sql.cursor.description[0].name == f"'{text}'"
    for unit, kind in (("day", int), ("epoch", float)):
        sql(f"SELECT EXTRACT('{unit}' FROM TIMESTAMP '2020-01-01 00:00:00')")
        assert sql.cursor.description[0].type_code is kind
