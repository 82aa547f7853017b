"""Files: damage, compressions, names and keys of every kind, many small ones, and one bad one among good ones."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from corpus.harness import CHANGE, FULL, Case, Corpus, file
from faults import Call, Fault, FaultProxy, matching
from firebolt_cdc import apply, cli
from firebolt_cdc import config as configuration
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import TransientError
from standin import StandIn
from support import Pipeline, parquet, table_config, use_aws

FIFTY: dict[str, Any] = {"Op": ["I"] * 50, "id": list(range(50)), "v": ["a"] * 50}
ALL = [[n, "a"] for n in range(50)]
WHOLE = file(FIFTY)
COMPRESSIONS = ["none", *(c for c in ("snappy", "gzip", "brotli", "lz4", "zstd") if pa.Codec.is_available(c))]


def dictionaries() -> bytes:
    """Row groups whose dictionaries differ."""
    kind = pa.schema([("id", pa.dictionary(pa.int32(), pa.string())), ("v", pa.string())])
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, kind) as writer:
        for name in ("a", "b"):
            writer.write_table(pa.table({"id": pa.array([name]).dictionary_encode(), "v": ["x"]}, kind))
    return buffer.getvalue()


def footer(bytes_: int) -> bytes:
    """A file whose footer holds this much metadata."""
    table = pa.table({"id": [1], "v": ["a"]}).replace_schema_metadata({"note": "x" * bytes_})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


class Keys(pe.KmsClient):
    """A key service that wraps nothing."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return base64.b64encode(key_bytes).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


def encrypted(columns: list[str], *, plaintext_footer: bool) -> bytes:
    """A file of which these columns are encrypted (Parquet modular encryption), with its footer or without."""
    wanted = pe.EncryptionConfiguration("footer", column_keys={"columns": columns}, plaintext_footer=plaintext_footer)
    properties = pe.CryptoFactory(Keys).file_encryption_properties(pe.KmsConnectionConfig(), wanted)
    table, buffer = pa.table(FIFTY), io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    assert buffer.getvalue()[-4:] == (b"PAR1" if plaintext_footer else b"PARE")
    return buffer.getvalue()


def damaged_column(number: int) -> bytes:
    """Damage to the pages of one column."""
    start = pq.ParquetFile(io.BytesIO(WHOLE)).metadata.row_group(0).column(number).data_page_offset
    return WHOLE[:start] + b"\xff" * 20 + WHOLE[start + 20 :]


ENCRYPTED = r"the Parquet file is encrypted \(\d+ bytes\), .*switch Parquet encryption off"
UNREADABLE = "not a readable Parquet file"
DAMAGED: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", rf"{UNREADABLE} \(0 bytes\)"),
    "one byte": (b"P", rf"{UNREADABLE} \(1 bytes\)"),
    "CSV": (b"I,1,a\n" * 100, f"{UNREADABLE}.*not a parquet file"),
    "half of it": (WHOLE[: len(WHOLE) // 2], UNREADABLE),
    "without its end": (WHOLE[:-9], UNREADABLE),
    "without its beginning": (WHOLE[100:], "damaged Parquet file"),
    "the magic word of an encrypted footer": (b"PARE" + WHOLE[4:-4] + b"PARE", ENCRYPTED),
    "an encrypted footer": (encrypted(["v"], plaintext_footer=False), ENCRYPTED),
    "an encrypted column": (encrypted(["v"], plaintext_footer=True), ENCRYPTED),
    "an encrypted key": (encrypted(["id"], plaintext_footer=True), ENCRYPTED),
    "all columns encrypted": (encrypted(["Op", "id", "v"], plaintext_footer=True), ENCRYPTED),
    "a footer larger than the file": (WHOLE[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1", UNREADABLE),
    "a footer of zeros": (WHOLE[:-60] + bytes(52) + WHOLE[-8:], UNREADABLE),
    "a damaged page": (WHOLE[:20] + b"\xff" * 60 + WHOLE[80:], "damaged Parquet file"),
    "a damaged page of the last column": (damaged_column(2), "damaged Parquet file"),
    "no columns": (file({}), r"primary key column\(s\) \['id'\] are not in the file, which has \[\]"),
}
READABLE: dict[str, tuple[bytes, list[list[Any]]]] = {
    "no rows": (file({"id": pa.array([], pa.int64()), "v": pa.array([], pa.string())}), []),
    "one row group per row": (file(FIFTY, row_group_size=1), ALL),
    "a footer of 8 MB": (footer(8_000_000), [[1, "a"]]),
    "row groups with dictionaries of their own": (dictionaries(), [["a", "x"], ["b", "x"]]),
    "Parquet 1.0": (file(FIFTY, version="1.0"), ALL),
    "data pages 2.0": (file(FIFTY, data_page_version="2.0"), ALL),
    "delta encodings": (
        file(
            FIFTY,
            use_dictionary=False,
            column_encoding={"Op": "PLAIN", "id": "DELTA_BINARY_PACKED", "v": "DELTA_BYTE_ARRAY"},
        ),
        ALL,
    ),
}
PATTERNS = ["2024 01 02", "2024 01 02 03", "2024 01", "01 2024 02", "02 01 2024"]
"""DatePartitionSequence: YYYYMMDD, YYYYMMDDHH, YYYYMM, MMYYYYDD, DDMMYYYY."""
FOLDERS = ["", *(pattern.replace(" ", delimiter) + "/" for pattern in PATTERNS for delimiter in ("/", "-", "_", ""))]
ODD = [
    "a b",
    "a+b",
    "a%20b",
    "a%",
    "it's",
    'q"q',
    "日本🎉",
    "[x]",
    "a*b",
    "a**",
    "q?",
    "tab\t",
    "new\nline",
    "\n",
    "return\r",
    "both\r\n",
    "back\\slash",
    "{a,b}",
    "a;b",
    "#",
    "$1",
    "a&b=c",
    "'); --",
]
COUNTERS = ["00000009", "0000000A", "0000000a", "FFFFFFFF", "100000000"]
UNPLACED = [
    "notes",
    "20240102",
    "2024010-1",
    "20240102-1a",
    "20240102-" + "1" * 21,
    "LOAD1",
    "LOAD0000000G",
    "load00000001",
    "LOAD00000001 (1)",
]
CASES = [
    *[
        Case(f"{what}, {name}", {name: body}, failed=told)
        for what, (body, told) in DAMAGED.items()
        for name in (CHANGE, FULL)
    ],
    *[
        Case(f"{what}, {name}", {name: body}, rows)
        for what, (body, rows) in READABLE.items()
        for name in (CHANGE, FULL)
    ],
    *[
        Case(
            f"compressions, {name}",
            {
                name.replace("1", str(n + 1)): file({"id": [n], "v": ["a" * 100]}, compression=compression)
                for n, compression in enumerate(COMPRESSIONS)
            },
            [[n, "a" * 100] for n in range(len(COMPRESSIONS))],
        )
        for name in ("20240202-1.parquet", FULL)
    ],
    Case("nothing but Op", {CHANGE: {"Op": ["I"]}}, failed="the file has no data columns", key=()),
    Case(
        "date folders",
        {f"{folder}20240102-1.parquet": {"id": [n], "v": [folder]} for n, folder in enumerate(FOLDERS)},
        [[n, folder] for n, folder in enumerate(FOLDERS)],
    ),
    Case(
        "1 to 20 digits after the dash",
        {f"20240102-{'9' * n}.parquet": {"Op": ["U"], "id": [1], "v": [str(n)]} for n in range(1, 21)},
        [[1, "20"]],
    ),
    Case(
        "full-load counters",
        {f"LOAD{name}.parquet": {"id": [n], "v": [name]} for n, name in enumerate(COUNTERS)},
        [[n, name] for n, name in enumerate(COUNTERS)],
    ),
    Case(
        "keys of every kind",
        {
            f"{odd}/{name}.parquet": {"id": [n + 100 * (name[0] == "L")], "v": [odd]}
            for n, odd in enumerate(ODD)
            for name in ("20240102-1", "LOAD00000001")
        },
        [[n + start, odd] for start in (0, 100) for n, odd in enumerate(ODD)],
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_case(corpus: Corpus, name: str) -> None:
    corpus.check(name)


def test_nothing_was_unexpected(corpus: Corpus) -> None:
    corpus.check_log()


@pytest.fixture(scope="module")
def counted(aws: str) -> Iterator[tuple[Pipeline, FaultProxy]]:
    """A pipeline of two tables whose statements are counted."""
    use_aws(aws)
    with StandIn(s3_endpoint=aws) as engine, FaultProxy(engine) as proxy:
        tables = {
            f"t/{name}": table_config(name, ["id"])
            for name in (
                *("many", "hundred", "poison", "full", "looked", "strict"),
                *("gone_20240101", "gone_LOAD0000", "odd_20240101", "odd_LOAD0000"),
            )
        }
        pipeline = Pipeline(proxy.url, tables)
        pipeline.migrate()
        yield pipeline, proxy
        pipeline.sql.close()


def statements(proxy: FaultProxy, since: int, start: str) -> int:
    return sum(call.text.startswith(start) for call in proxy.calls[since:])


def test_tiny_files_cost_statements_by_the_batch(counted: tuple[Pipeline, FaultProxy]) -> None:
    pipeline, proxy = counted
    names = [f"t/many/20240102-{n:06}.parquet" for n in range(1, 301)]
    events = [pipeline.put(name, parquet({"Op": ["U"], "id": [n % 7], "v": [n]})) for n, name in enumerate(names, 1)]
    since = len(proxy.calls)
    for start in range(0, 300, 100):
        assert pipeline.deliver(*events[start : start + 100], timeout_seconds=300.0) == []
    assert statements(proxy, since, "MERGE INTO") == 3
    assert statements(proxy, since, "COMMIT") == 6, "a claim and a load for each batch"
    assert len(proxy.calls) - since <= 75, "statements do not grow with the files"
    assert pipeline.sql("SELECT COUNT(*), COUNT(DISTINCT load_id), SUM(rows_read) FROM cdc_applied") == [[300, 3, 300]]
    assert pipeline.sql('SELECT "id", "v" FROM many ORDER BY 1') == [[n, max(range(n or 7, 301, 7))] for n in range(7)]


def test_one_unreadable_file_among_a_hundred_costs_no_further_load(counted: tuple[Pipeline, FaultProxy]) -> None:
    pipeline, proxy = counted
    events = [pipeline.put(f"t/hundred/20240102-{n:03}.parquet", parquet({"id": [n], "v": [n]})) for n in range(97)]
    bad = pipeline.put("t/hundred/20240102-050x.parquet", parquet({"id": [1]}))
    torn = pipeline.put("t/hundred/20240102-0505.parquet", WHOLE[:-9])
    sealed = pipeline.put("t/hundred/20240102-0506.parquet", encrypted(["v"], plaintext_footer=True))
    since = len(proxy.calls)
    assert pipeline.deliver(*events[:50], bad, torn, sealed, *events[50:], timeout_seconds=300.0) == []
    assert statements(proxy, since, "MERGE INTO") == 1
    assert pipeline.sql.value("SELECT COUNT(*) FROM hundred") == 97
    failed = pipeline.sql(
        "SELECT file_key, error_class, attempt_count FROM cdc_processed_files WHERE status = 'failed' "
        "AND file_key LIKE 't/hundred/%' ORDER BY 1"
    )
    assert failed == [
        ["t/hundred/20240102-0505.parquet", "permanent", 1],
        ["t/hundred/20240102-0506.parquet", "permanent", 1],
        ["t/hundred/20240102-050x.parquet", "permanent", 1],
    ]
    assert len(pipeline.take(pipeline.dlq)) == 3


def test_one_file_that_the_engine_refuses(
    counted: tuple[Pipeline, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a reason that only the engine knows: halving finds the file, and three tries end it."""
    pipeline, proxy = counted

    def refused(call: Call) -> Fault | None:
        poisoned = call.text.startswith("INSERT INTO cdc_applied") and "20240102-020.parquet" in call.text
        return Fault.HTTP_400 if poisoned else None

    monkeypatch.setattr(proxy, "decide", refused)
    events = [pipeline.put(f"t/poison/20240102-{n:03}.parquet", parquet({"id": [n], "v": [n]})) for n in range(40)]
    since = len(proxy.calls)
    assert pipeline.deliver(*events, timeout_seconds=300.0) == []
    assert pipeline.sql.value("SELECT COUNT(*) FROM poison") == 39, "the neighbours are there after one delivery"
    assert statements(proxy, since, "MERGE INTO") <= 13, "two for each halving at most, and the file alone"
    for _ in range(3):
        assert pipeline.deliver(events[20]) == []
    [[status, failure, message, alone]] = pipeline.sql(
        "SELECT status, error_class, error_message, alone_count FROM cdc_processed_files "
        "WHERE file_key = 't/poison/20240102-020.parquet'"
    )
    assert (status, failure, alone) == ("failed", "transient", 3)
    assert "the statement was rejected" in message
    assert statements(proxy, since, "MERGE INTO") <= 15
    assert len(pipeline.take(pipeline.dlq)) == 1


def test_full_loads_that_only_the_engine_reads_fail_once(counted: tuple[Pipeline, FaultProxy]) -> None:
    """Text that the loader does not look at ahead: the engine refuses it, then the file says where it stands."""
    pipeline, proxy = counted
    texts = {n: pa.array(["a"]) for n in range(8)}
    texts[2] = pa.array(["a"] * 99 + ["\0"])
    texts[5] = pa.array([b"a", b"\xff"]).view(pa.string())
    names = [f"t/full/LOAD{n:08}.parquet" for n in texts]
    events = [
        pipeline.put(name, parquet({"id": [100 * n + row for row in range(len(texts[n]))], "v": texts[n]}))
        for n, name in enumerate(names)
    ]
    since = len(proxy.calls)
    assert pipeline.deliver(*events, timeout_seconds=300.0) == []
    assert statements(proxy, since, 'MERGE INTO "full"') <= 23, "for each halving as many as its half has files"
    since = len(proxy.calls)
    for _ in range(2):
        assert pipeline.deliver(*events, timeout_seconds=300.0) == []
    assert statements(proxy, since, "MERGE INTO") == 0
    assert pipeline.sql('SELECT "id" FROM "full" ORDER BY 1') == [[100 * n] for n in (0, 1, 3, 4, 6, 7)]
    failed = pipeline.sql(
        "SELECT file_key, error_class, alone_count, error_message FROM cdc_processed_files WHERE status = 'failed' "
        "AND file_key LIKE 't/full/%' ORDER BY 1"
    )
    assert [line[:3] for line in failed] == [[names[2], "permanent", 1], [names[5], "permanent", 1]]
    for name, told, [*_, message] in zip(
        (names[2], names[5]), ("row 100 holds a character zero", "row 2 has text"), failed, strict=True
    ):
        assert re.search(f"{name}.*(column 'v'.*{told}|{told}.*column 'v').*correct", message)
    assert len(pipeline.take(pipeline.dlq)) == 6, "for each delivery of the two"


def test_a_refusal_that_speaks_of_no_null_is_not_laid_on_a_dropped_column(
    counted: tuple[Pipeline, FaultProxy],
) -> None:
    pipeline, proxy = counted
    pipeline.sql('CREATE TABLE strict ("id" BIGINT, "v" TEXT, "made_by" TEXT NOT NULL)')
    pipeline.sql("INSERT INTO strict VALUES (1, 'old', 'me')")
    update = pipeline.put("t/strict/20240102-1.parquet", parquet({"Op": ["U"], "id": [1], "v": ["new"]}))
    proxy.inject(Fault.HTTP_400, matching("MERGE INTO"))
    pipeline.deliver(update)
    [[status, failure]] = pipeline.sql(
        "SELECT status, error_class FROM cdc_processed_files WHERE file_key LIKE 't/strict/%'"
    )
    assert (status, failure) == ("failed", "transient")
    assert pipeline.deliver(update) == []
    assert pipeline.sql('SELECT "v", "made_by" FROM strict') == [["new", "me"]]


def test_only_a_full_load_that_the_engine_refused_is_looked_through(
    counted: tuple[Pipeline, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection says nothing of the file, and what goes wrong in looking hides not what the engine said."""
    pipeline, proxy = counted
    looked: list[str] = []

    def look(_: object, refused: Any, __: object) -> None:
        looked.append(refused.file.file_key)
        raise TransientError("S3 is away")

    monkeypatch.setattr(apply, "explain", look)
    pipeline.sql('CREATE TABLE looked ("id" BIGINT, "v" TEXT)')
    full = pipeline.put("t/looked/LOAD00000001.parquet", parquet({"id": [1], "v": ["\0"]}))
    change = pipeline.put("t/looked/20240102-1.parquet", parquet({"id": [1], "v": ["a"]}))
    for fault, event, times in (
        (Fault.CUT_BEFORE, full, 0),
        (Fault.HTTP_503, full, 0),
        (Fault.HTTP_400, change, 0),
        (None, full, 1),
    ):
        looked.clear()
        for _ in range(2 if fault in (Fault.CUT_BEFORE, Fault.HTTP_503) else 1 if fault else 0):
            proxy.inject(fault, matching("MERGE INTO"))
        assert pipeline.deliver(event) == []
        assert len(looked) == times, fault
    [[status, failure, message]] = pipeline.sql(
        "SELECT status, error_class, error_message FROM cdc_processed_files WHERE file_key LIKE 't/looked/LOAD%'"
    )
    assert (status, failure) == ("failed", "transient")
    assert "character zero in text column 'v'" in message


@pytest.mark.parametrize("name", [CHANGE, FULL])
def test_objects_that_change_or_go_between_event_and_load(counted: tuple[Pipeline, FaultProxy], name: str) -> None:
    pipeline, _ = counted
    target = f"gone_{name[:8]}"
    key = f"t/{target}/a/{name}"
    old, new = (pipeline.put(key, parquet({"id": [1], "v": [v]})) for v in ("old", "new"))
    away = pipeline.put(f"t/{target}/b/{name}", parquet({"id": [2], "v": ["x"]}))
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=away["detail"]["object"]["key"])
    assert pipeline.deliver(old, away, new) == []
    assert len(pipeline.take(pipeline.dlq)) == 2
    lines = pipeline.sql(
        "SELECT file_key, status, error_class, error_message FROM cdc_processed_files WHERE file_key LIKE ? "
        "ORDER BY 1, 2",
        f"t/{target}/_/{name}",
    )
    assert [line[:3] for line in lines] == [
        [key, "completed", None],
        [key, "failed", "gone"],
        [f"t/{target}/b/{name}", "failed", "gone"],
    ]
    assert "overwritten since it was announced" in lines[1][3]
    assert "no longer exists" in lines[2][3]
    assert pipeline.sql(f'SELECT "id", "v" FROM "{target}"') == [[1, "new"]]


@pytest.mark.parametrize("name", [CHANGE, FULL])
def test_a_key_with_newlines_goes_the_whole_way(counted: tuple[Pipeline, FaultProxy], name: str) -> None:
    """Announced as S3 does (encoded), it waits for its table, is loaded from the copy, and counts as known."""
    pipeline, _ = counted
    target = f"odd_{name[:8]}"
    key = f"t/{target}/a\nb\r\n\tc d+%0A/{name}"
    thing = pipeline.put(key, parquet({"id": [1], "v": ["a"]}))["detail"]["object"]
    encoded = {"key": quote_plus(thing["key"], safe="/"), "eTag": thing["etag"]}
    assert "a%0Ab%0D%0A%09c+d%2B%250A/" in encoded["key"]
    event = json.dumps({"Records": [{"s3": {"bucket": {"name": pipeline.bucket}, "object": encoded}}]})
    lease = "lease_until = CURRENT_TIMESTAMP + INTERVAL '1' HOUR"
    pipeline.sql(f"UPDATE cdc_tables SET holder = 'other', {lease} WHERE turn = ?", target)
    assert pipeline.deliver(event) == []
    assert key not in pipeline.ledger()
    pipeline.sql("UPDATE cdc_tables SET holder = NULL WHERE turn = ?", target)
    pipeline.drain()
    assert pipeline.sql(f'SELECT "id", "v" FROM "{target}"') == [[1, "a"]]
    assert pipeline.sql(
        "SELECT file_key, object_key, status FROM cdc_processed_files WHERE source_table = ?", f"t/{target}"
    ) == [[key, thing["key"], "completed"]]
    known = pipeline.by_hand(key)
    assert json.loads(known["body"]) == {"message": "File already processed", "file_key": key, "status": "completed"}
    pipeline.clean("reconcile")
    assert not [m for m in pipeline.take(pipeline.queue) if target in m["Body"]], "the listing names it as it is"


def test_a_failed_file_with_newlines_in_its_key_is_one_line_of_the_status(
    counted: tuple[Pipeline, FaultProxy], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, _ = counted
    key = f"t/odd_20240101/bad\nkey\r/{CHANGE}"
    assert pipeline.deliver(pipeline.put(key, b"no Parquet")) == []
    config, deadline = configuration.load(), Deadline(60)
    with closing(Engine.of(config, deadline)) as engine:
        monkeypatch.setattr(cli, "_pipeline", lambda function: cli.Pipeline(function, config, engine, deadline))
        monkeypatch.setattr(cli, "console", cli.Console(width=400))
        cli.status("loader")
        [line] = [line for line in capsys.readouterr().out.splitlines() if "bad" in line]
        assert [cell.strip() for cell in line.split("│")[1:3]] == [
            rf"t/odd_20240101/bad\nkey\r/{CHANGE}",
            "permanent",
        ]
        cli.status("loader", as_json=True)
        [failed] = [f for f in json.loads(capsys.readouterr().out)["failed"] if "bad" in f["file"]]
        assert failed["file"] == key
        pipeline.take(pipeline.dlq)
        cli.retry("loader", [key], yes=True, as_json=True)
        assert json.loads(capsys.readouterr().out) == {"retried": [key]}
    pipeline.drain()
    assert pipeline.ledger()[key] == ("failed", "permanent")
    assert len(pipeline.take(pipeline.dlq)) == 1


def test_names_that_nobody_can_place_are_written_down_and_sent_on(counted: tuple[Pipeline, FaultProxy]) -> None:
    pipeline, _ = counted
    keys = [f"t/many/{name}.parquet" for name in UNPLACED]
    assert pipeline.deliver(*(pipeline.put(key, parquet({"id": [1]})) for key in keys)) == []
    assert {key: pipeline.ledger()[key] for key in keys} == dict.fromkeys(keys, ("failed", "permanent"))
    assert len(pipeline.take(pipeline.dlq)) == len(keys)
