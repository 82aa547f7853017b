"""READ_PARQUET by URL and by LOCATION, from an S3 server on this machine."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from firebolt.utils.exception import FireboltError


@pytest.fixture
def lake(make_engine: Any, connect_to: Any, s3_url: str, s3: Any) -> Any:
    return connect_to(make_engine(s3_endpoint=s3_url))


def test_url(lake: Any, put: Any) -> None:
    put("one/a.parquet", {"Op": ["I", "D"], "id": [1, 2], "op": ["x", "y"]})
    rows = lake("""SELECT "Op", id, op FROM READ_PARQUET(URL => 's3://source/one/a.parquet') ORDER BY id""")
    assert rows == [["I", 1, "x"], ["D", 2, "y"]]
    assert lake("SELECT * FROM READ_PARQUET('s3://source/one/a.parquet') ORDER BY id LIMIT 1") == [["I", 1, "x"]]
    assert [c.name for c in lake.cursor.description] == ["Op", "id", "op"]
    assert lake("SELECT p.id FROM read_parquet(url => 's3://source/one/a.parquet') AS p WHERE p.\"Op\" = 'D'") == [[2]]
    assert lake("SELECT MAX(read_parquet.id) FROM READ_PARQUET('s3://source/one/a.parquet')") == [[2]]


def test_types(lake: Any, put: Any) -> None:
    columns = {
        "i8": pa.array([1], pa.int8()),
        "u32": pa.array([4_000_000_000], pa.uint32()),
        "u64": pa.array([18_000_000_000_000_000_000], pa.uint64()),
        "f4": pa.array([1.5], pa.float32()),
        "dec": pa.array([Decimal("1.10")], pa.decimal128(10, 2)),
        "big": pa.array([Decimal(10) ** 37], pa.decimal128(38, 0)),
        "day": pa.array([date(2024, 1, 2)]),
        "ms": pa.array([1_700_000_000_000], pa.timestamp("ms")),
        "us": pa.array([1_700_000_000_000_001], pa.timestamp("us", tz="UTC")),
        "raw": pa.array([b"\x00\xff"]),
        "flag": pa.array([True]),
        "none": pa.array([None], pa.string()),
        "list": pa.array([["a", None]]),
    }
    put("types.parquet", columns)
    lake("CREATE TABLE kept AS SELECT * FROM READ_PARQUET(URL => 's3://source/types.parquet')")
    instant = datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    times = [date(2024, 1, 2), instant.replace(microsecond=0, tzinfo=None), instant]
    rest = [b"\x00\xff", True, None, ["a", None]]
    assert lake("SELECT * FROM kept") == [
        [1, 4_000_000_000, Decimal(18_000_000_000_000_000_000), 1.5, Decimal("1.10"), Decimal(10) ** 37, *times, *rest]
    ]
    types = lake("SELECT data_type, is_nullable FROM information_schema.columns ORDER BY ordinal_position")
    expected = "integer|bigint|numeric(20, 0)|real|numeric(10, 2)|numeric(38, 0)|date|timestamp|timestamptz|bytea"
    assert types == [[kind, "YES"] for kind in [*expected.split("|"), "boolean", "text", "array(text)"]]


def test_time_of_day_is_refused(lake: Any, put: Any) -> None:
    put("time.parquet", {"t": pa.array([1], pa.time64("us"))})
    with pytest.raises(FireboltError, match="TIME has no counterpart"):
        lake("SELECT * FROM READ_PARQUET(URL => 's3://source/time.parquet')")


def test_assignment_needs_casts(lake: Any, put: Any) -> None:
    put("cast.parquet", {"id": ["1", "2"], "n": pa.array([Decimal("1.5"), None], pa.decimal128(12, 1))})
    lake("CREATE TABLE t (id BIGINT NOT NULL, n NUMERIC(38, 9))")
    source = "FROM READ_PARQUET(URL => 's3://source/cast.parquet') AS p"
    with pytest.raises(FireboltError, match="column 'id' is of type bigint but the expression is of type text"):
        lake(f"INSERT INTO t SELECT p.id, CAST(p.n AS NUMERIC(38, 9)) {source}")
    with pytest.raises(FireboltError, match="column 'n' is of type"):
        lake(f"INSERT INTO t SELECT CAST(p.id AS BIGINT), p.n {source}")
    lake(f"INSERT INTO t SELECT CAST(p.id AS BIGINT), CAST(p.n AS NUMERIC(38, 9)) {source}")
    assert lake("SELECT * FROM t ORDER BY id") == [[1, Decimal("1.5")], [2, None]]


def test_merge_from_files(lake: Any, put: Any) -> None:
    put("load.parquet", {"k": list(range(1000)), "v": [f"v{i}" for i in range(1000)]})
    put("change.parquet", {"k": [5, 6, 2000], "v": ["new", None, "more"], "_cdc_op": ["U", "D", "I"]})
    lake("CREATE TABLE cdc_tables (name TEXT NOT NULL, load_id TEXT) PARTITION BY name")
    lake("INSERT INTO cdc_tables VALUES ('t', 'mine')")
    lake("CREATE TABLE t (k BIGINT, v TEXT)")
    statement = """MERGE INTO "t" AS t USING (SELECT {columns} FROM READ_PARQUET(URL => 's3://source/{key}') AS p
     WHERE EXISTS (SELECT 1 FROM cdc_tables WHERE name = 't' AND load_id = '{load_id}')) AS s ON t."k" = s."k"
     {deletes} WHEN MATCHED THEN UPDATE SET "v" = s."v" WHEN NOT MATCHED THEN INSERT ("k", "v") VALUES (s."k", s."v")"""
    columns, change = 'p."k", p."v"', 'p."k", p."v", p."_cdc_op"'
    lake(statement.format(columns=columns, key="load.parquet", load_id="other", deletes=""))
    assert lake("SELECT COUNT(*) FROM t") == [[0]]
    lake(statement.format(columns=columns, key="load.parquet", load_id="mine", deletes=""))
    deletes = """WHEN MATCHED AND s."_cdc_op" = 'D' THEN DELETE"""
    lake(statement.format(columns=change, key="change.parquet", load_id="mine", deletes=deletes))
    assert lake("SELECT COUNT(*), COUNT(DISTINCT k) FROM t") == [[1000, 1000]]
    assert lake("SELECT v FROM t WHERE k IN (4, 5, 6, 2000) ORDER BY k") == [["v4"], ["new"], ["more"]]


def test_location_and_pattern(lake: Any, put: Any) -> None:
    for day in (1, 2):
        put(f"loc/day={day}/x.parquet", {"n": [day]})
    lake(
        "CREATE LOCATION IF NOT EXISTS src WITH SOURCE = AMAZON_S3 "
        "CREDENTIALS = (AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' AWS_ROLE_EXTERNAL_ID = 'secret') "
        "URL = 's3://source/loc/' DESCRIPTION = 'test'"
    )
    assert lake("SELECT n FROM READ_PARQUET(LOCATION => 'src') ORDER BY n") == [[1], [2]]
    rows = lake("SELECT n, $source_file_name FROM READ_PARQUET(LOCATION => 'src', PATTERN => 'day=2/x.parquet')")
    assert rows == [[2, "loc/day=2/x.parquet"]]
    assert lake("SELECT *, $source_file_size > 0 AS big FROM READ_PARQUET(LOCATION => 'src') ORDER BY 1") == [
        [1, True],
        [2, True],
    ]
    assert lake("SELECT n FROM READ_PARQUET(LOCATION => 'src') WHERE $source_file_name LIKE '%day=1%'") == [[1]]
    shown = lake("SELECT location_name, source, url, ddl FROM information_schema.locations")
    assert shown[0][:3] == ["src", "AMAZON_S3", "s3://source/loc/"]
    assert "secret" not in shown[0][3]
    for call, named in [
        ("LOCATION => 'other'", "'other' does not exist"),
        ("LOCATION => 'src', PATTERN => 'day=3/*'", "no files match"),
        ("LOCATION => 'src', SKIP => 1", "SKIP"),
        ("PATTERN => 'x'", "needs LOCATION"),
    ]:
        with pytest.raises(FireboltError, match=named):
            lake(f"SELECT * FROM READ_PARQUET({call})")
    lake("DROP LOCATION src")
    with pytest.raises(FireboltError, match="does not exist"):
        lake("DROP LOCATION src")


def test_glob_in_url(lake: Any, put: Any) -> None:
    put("glob/a1.parquet", {"n": [1]})
    put("glob/sub/a2.parquet", {"n": [2]})
    put("glob/[x].parquet", {"n": [3]})
    assert lake("SELECT SUM(n) FROM READ_PARQUET('s3://source/glob/*.parquet')") == [[6]]
    with pytest.raises(FireboltError, match="no files match"):
        lake("SELECT * FROM READ_PARQUET('s3://source/glob/[x].parquet')")


def test_keys_with_odd_characters(lake: Any, put: Any) -> None:
    key = "odd/it's a +plus% é.parquet"
    put(key, {"n": [1]})
    url = f"s3://source/{key}".replace("'", "''")
    assert lake(f"SELECT n, $source_file_name FROM READ_PARQUET(URL => '{url}')") == [[1, key]]


def test_missing_and_broken_files(lake: Any, s3: Any) -> None:
    with pytest.raises(FireboltError, match=r"cannot read s3://source/nowhere\.parquet"):
        lake("SELECT * FROM READ_PARQUET(URL => 's3://source/nowhere.parquet')")
    s3.put_object(Bucket="source", Key="broken.parquet", Body=b"not parquet")
    with pytest.raises(FireboltError, match="is not a readable Parquet file"):
        lake("SELECT * FROM READ_PARQUET(URL => 's3://source/broken.parquet')")
    assert lake("SELECT 1") == [[1]]


def test_schema_of_the_newest_file(lake: Any, put: Any) -> None:
    put("newest/a.parquet", {"n": [1], "extra": ["x"]})
    put("newest/b.parquet", {"n": pa.array([2], pa.int32())})
    assert lake("SELECT * FROM READ_PARQUET(URL => 's3://source/newest/*') ORDER BY n") == [[1], [2]]


def test_downloads_are_removed(make_engine: Any, connect_to: Any, s3_url: str, put: Any) -> None:
    engine = make_engine(s3_endpoint=s3_url)
    put("tidy.parquet", {"n": [1]})
    connect_to(engine)("SELECT * FROM READ_PARQUET(URL => 's3://source/tidy.parquet')")
    assert not list(engine.engine.scratch.glob("*.parquet"))
