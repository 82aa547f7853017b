"""One property for each entrance: what it feeds, what must hold afterwards, and how the input ended."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
from botocore.exceptions import ClientError
from firebolt.common.statement_formatter import create_statement_formatter
from hypothesis import assume
from hypothesis import strategies as st

from firebolt_cdc import apply, cleanup, config, events, files, migrate, stage, status
from firebolt_cdc.config import Config, Table
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import CdcError, PermanentError, redact
from firebolt_cdc.events import Origin
from firebolt_cdc.files import FileVersion, Kind, SourceFile
from firebolt_cdc.schema import Column
from firebolt_cdc.storage import ObjectInfo, ObjectReader
from fuzz import inputs
from fuzz.bench import TABLES, Bench, BrokenError, Lab, Record, check_statement, literal, readable
from wire.world import MODULE, PREFIX, SOURCE, Invocation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD_FILE = inputs.parquet(
    pa.table({"Op": ["I", "U", "D"], "id": [1, 1, 2], "v": ["a", "b", None]}),
)
assert GOOD_FILE is not None


@dataclass(frozen=True)
class Property:
    """`check(lab, example)` returns how the input ended, once for each of its parts, or raises BrokenError."""

    entrance: str
    examples: st.SearchStrategy[Any]
    check: Callable[[Lab, Any], Sequence[str]]
    share: float
    """Examples for each example of the cheapest property: those on the whole pipeline cost a thousand times more."""


PROPERTIES: dict[str, Property] = {}


def entrance(examples: st.SearchStrategy[Any], share: float = 1.0) -> Callable[[Any], Any]:
    """Register a property under its function's name."""

    def register(check: Any) -> Any:
        name = check.__name__.replace("_", "-")
        PROPERTIES[name] = Property(name, examples, check, share)
        return check

    return register


END_TO_END = 0.05


# ---------------------------------------------------------------- (a) events


@entrance(inputs.damaged_records)
def messages_are_read_or_refused(_: Lab, record: Record) -> Sequence[str]:
    """Any SQS record gives deliveries that can be loaded, waited for and sent on, or a refusal."""
    found, ending = readable(lambda: events.from_message(record, NOW))
    for delivery in found or ():
        if not delivery.bucket or not delivery.key:
            raise BrokenError("a delivery of nothing")
        age = delivery.age_seconds(NOW)
        if age < 0 or not delivery.first_seen.tzinfo:
            raise BrokenError(f"a delivery that cannot be aged: {delivery.first_seen}")
        readable(lambda delivery=delivery: Record(events.announcement(delivery.bucket, delivery.key, delivery.etag)))
    return [ending]


@entrance(st.lists(inputs.damaged_records, min_size=1, max_size=4), END_TO_END)
def batches(lab: Lab, records: list[Record]) -> Sequence[str]:
    """Of a batch with any records, the good ones load and no message is acknowledged that is not kept somewhere."""
    with Bench(lab) as bench:
        etag = bench.put(inputs.GOOD, GOOD_FILE)
        records = [_with_etag(r, str(etag)) for r in records]
        good = bench.announce(inputs.GOOD, etag) | {"messageId": "good"}
        batch = [*records, good]
        kept = bench.batch(batch)
        if "good" in kept or bench.sql('SELECT "v" FROM "merge"') != [["b"]]:
            raise BrokenError("the good message was not loaded")
        ends = [_end_of(bench, r, kept) for r in batch]
        bench.check()
    return ends


@entrance(inputs.damaged(inputs.event_bodies) | inputs.junk, END_TO_END)
def events_by_hand(lab: Lab, event: Any) -> Sequence[str]:
    """Any payload of `lambda invoke` is answered or refused, by all three functions."""
    with Bench(lab) as bench:
        etag = bench.put(inputs.GOOD, GOOD_FILE)
        event = json.loads(json.dumps(event).replace("RIGHT", str(etag)))
        answer, ending = bench.invoke(event)
        for handler in (cleanup.handler, migrate.handler):
            readable(lambda handler=handler: handler(event, Invocation(60)))
        bench.check()
    return [ending if answer is None else f"answered: {answer.get('status', answer.get('statusCode', 'batch'))}"]


def _with_etag(record: Record, etag: str) -> Record:
    body = record.get("body")
    return {**record, "body": body.replace("RIGHT", etag)} if isinstance(body, str) else record


def _end_of(bench: Bench, record: Record, kept: set[str]) -> str:
    """How one record ended.

    Raises:
        BrokenError: it is acknowledged and stands nowhere.
    """
    if str(record.get("messageId")) in kept or str(record.get("messageId", "")) in kept:
        return "left on the queue"
    try:
        deliveries = events.from_message(record, NOW)
    except PermanentError:
        if not any(m.body == str(record.get("body", "")) for m in bench.dead):
            raise BrokenError(f"an unreadable message was acknowledged and is no dead letter: {record}") from None
        return "dead letter: unreadable"
    ends = [bench.ending(delivery) for delivery in deliveries]
    if None in ends:
        raise BrokenError(f"acknowledged, and neither loaded nor kept: {record}")
    return " + ".join(sorted({str(end) for end in ends})) or "nothing announced"


# ---------------------------------------------------------------- (b) object keys


@entrance(st.tuples(inputs.keys, st.sampled_from(("fail", "skip", "append"))))
def keys_are_placed_or_refused(_: Lab, example: tuple[str, str]) -> Sequence[str]:
    """Any key has a place in the table map, or a refusal that names it; two keys never share an identity."""
    key, unlisted = example
    settings = _config(unlisted_tables=unlisted)
    version = FileVersion(SOURCE, key, "e")
    if version.file_id == FileVersion(SOURCE, key + "x", "e").file_id:
        raise BrokenError("two keys with one identity")
    file, ending = readable(lambda: files.identify(settings, version))
    if file is not None:
        low, high = (files.file_rank(file, NOW.replace(year=y)) for y in (2025, 2026))
        if not low < high or not key.startswith(PREFIX):
            raise BrokenError(f"{file} has no place in the order")
    return [ending]


@entrance(
    st.tuples(inputs.good_keys | inputs.keys.filter(bool), st.sampled_from(("fail", "skip", "append")), st.booleans()),
    END_TO_END,
)
def objects_with_any_key(lab: Lab, example: tuple[str, str, bool]) -> Sequence[str]:
    """An object with any key, announced in each way and again, is loaded once or refused; no other is touched."""
    key, unlisted, notification = example
    source_table = key.removeprefix(PREFIX).split("/")[:2]
    unlisted_target = ["__".join(source_table)] if unlisted == "append" and len(source_table) == 2 else []
    with Bench(lab, targets=["merge", "log", *unlisted_target], unlisted_tables=unlisted) as bench:
        neighbour = f"{PREFIX}t/merge/20260101-7.parquet"
        bench.put(neighbour, inputs.parquet(pa.table({"id": [99]})) or b"")
        etag = bench.put(key, GOOD_FILE)
        assume(key != neighbour)
        announce = _notification if notification else bench.announce
        record = announce(key, etag or "e")
        ends = [_end_of(bench, record, bench.batch([record])) for _ in range(2)]
        bench.invoke({"detail": {"bucket": {"name": SOURCE}, "object": {"key": key}}})
        for table in ("merge", "log", *unlisted_target):
            with contextlib.suppress(ValueError):  # the table may not be there
                rows = bench.sql(f'SELECT "id" FROM "{table.replace(chr(34), chr(34) * 2)}" ORDER BY 1')
                if [str(row[0]) for row in rows] not in ([], ["1"], ["1", "1", "2"]):
                    raise BrokenError(f"{table} holds {rows}, which is not this file once")
        bench.check()
    return ends


def _notification(key: str, etag: str) -> Record:
    """A record with an S3 notification, whose key is encoded."""
    thing = {"key": quote_plus(key, safe="/", errors="surrogatepass"), "eTag": etag}
    body = {"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"name": SOURCE}, "object": thing}}]}
    return {"messageId": "0", "eventSource": "aws:sqs", "body": json.dumps(body), "messageAttributes": {}}


# ---------------------------------------------------------------- (c) Parquet

_ORDERS = (
    {},
    {"order": {"by": "change_seq", "column": "seq"}},
    {"order": {"by": "timestamp", "column": "ts"}},
    {"mode": "append", "primary_key": []},
    {"deletes": "soft"},
    {"deletes": "ignore", "schema_drift": "ignore"},
    {"schema_drift": "fail"},
)
_reading = st.tuples(inputs.target_columns, st.sampled_from(_ORDERS), st.sampled_from(list(Kind)))


class _OneObject:
    """S3 with one object."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def get_object(self, *, Range: str, **_: Any) -> dict[str, Any]:
        start, end = (int(part) for part in Range.removeprefix("bytes=").split("-"))
        return {"Body": io.BytesIO(self.body[start : end + 1])}


def _read(bodies: Sequence[bytes], target: Any, settings: dict[str, Any], kind: Kind) -> Sequence[str]:
    """Read files, stage them together, and write down the SQL that would apply them."""
    table = Table.model_validate({"target": "merge", "mode": "merge", "primary_key": ["id"]} | settings)
    columns = [Column(name, type_) for name, type_ in target]
    prepared, ends = [], []
    for number, body in enumerate(bodies):
        version = FileVersion(SOURCE, f"{PREFIX}t/merge/20260101-{number}.parquet", str(number))
        stamp = "" if kind is Kind.FULL else f"20260101-{number:020}"
        file = SourceFile(version, f"t/merge/{number}", "t/merge", kind, stamp, table, "merge")
        info = ObjectInfo(version, len(body), NOW)

        def read(body: bytes = body, file: SourceFile = file, info: ObjectInfo = info) -> stage.Prepared:
            try:
                return stage.prepare(ObjectReader(_OneObject(body), info), file, info, columns, 2**30)
            except CdcError as error:
                if str(file.version) not in str(error):
                    raise BrokenError(f"the refusal does not name the file: {error}") from error
                raise

        found, ending = readable(read)
        ends.append(ending)
        prepared += [found] if found is not None else []
    if prepared:
        counts: dict[str, stage.Counts] = {}
        changes = [p for p in prepared if p.rows is not None]
        if changes:
            staged, ending = readable(lambda: stage.stage(changes, table))
            if staged is None:
                return [*ends, f"staging {ending}"]
            counts = staged[1]
        place = apply.Place("merge", table, 1)
        part = apply.Part(place, tuple(prepared), tuple(columns), "k" if changes else None, counts, {})
        _, ending = readable(lambda: _check_sql(part, table))
        ends.append(f"SQL {ending}")
    return ends


def _check_sql(part: apply.Part, table: Table) -> None:
    statements = apply.target_ddl(part)
    names = list(dict.fromkeys(c.name for f in part.files for c in f.plan.mapped.values()))
    if table.mode is config.Mode.MERGE:
        selected = f"SELECT {apply.idents([*names, '_cdc_op', '_cdc_seq'], 'p.')} FROM READ_PARQUET(URL => ?) AS p"
        statements.append(apply.merge_statement(part, names, selected, ["u"], "load", [])[0])
    for sql in statements:
        check_statement(sql, [table.target])
        for sent in _as_the_sdk_sends(sql):
            check_statement(sent, [table.target])


def _as_the_sdk_sends(sql: str) -> list[str]:
    """The SDK splits what it takes for several statements and fills in the parameters."""
    values = ["'; DROP TABLE canary; --"] * (sql.count("?") if sql.startswith("MERGE") else 0)
    formatter = create_statement_formatter(2)
    if not values:
        return [str(part) for part in formatter.split_format_sql(sql, [])]
    for count in range(len(values), 0, -1):  # a question mark inside a name is none of the parameters
        with contextlib.suppress(Exception):
            return [str(part) for part in formatter.split_format_sql(sql, [values[:count]])]
    raise BrokenError(f"the SDK does not take the statement: {sql}")


@entrance(st.tuples(st.lists(inputs.parquet_bytes(), min_size=1, max_size=2), _reading))
def parquet_bytes(_: Lab, example: Any) -> Sequence[str]:
    """Any bytes are read, or refused by name."""
    bodies, reading = example
    return _read(bodies, *reading)


@entrance(st.tuples(st.lists(inputs.tables(), min_size=1, max_size=2), _reading))
def parquet_schemas(_: Lab, example: Any) -> Sequence[str]:
    """Any schema, against any target, is read, or refused by name; and its SQL keeps names within their quotes."""
    tables, reading = example
    bodies = [body for table in tables if (body := inputs.parquet(table)) is not None]
    assume(bodies)
    return _read(bodies, *reading)


@entrance(
    st.tuples(
        st.lists(
            st.tuples(
                st.sampled_from(("merge", "log")),
                st.booleans(),
                inputs.tables().map(inputs.parquet) | inputs.parquet_bytes(),
            ),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
        st.sampled_from(("add", "fail", "ignore")),
    ),
    END_TO_END,
)
def files_of_any_content(lab: Lab, example: Any) -> Sequence[str]:
    """Files of any content, one after another or in one batch, are applied once or written down as refused."""
    contents, together, drift = example
    tables = {name: table | {"schema_drift": drift} for name, table in TABLES.items()}
    with Bench(lab, tables=tables) as bench:
        records = []
        for number, (table, full, body) in enumerate(contents):
            if body is not None:
                name = f"LOAD{number:08X}" if full else f"20260101-{number + 1}"
                key = f"{PREFIX}t/{table}/{name}.parquet"
                records.append(bench.announce(key, bench.put(key, body), number))
        assume(records)
        kept: set[str] = set()
        for batch in [records] if together else [[r] for r in records]:
            kept |= bench.batch(batch)
        ends = [_end_of(bench, r, kept) for r in records]
        bench.drain()
        _all_settled(bench)
        bench.check()
    return ends


# ---------------------------------------------------------------- (d) names in the configuration


@entrance(st.tuples(st.text(inputs.anything) | inputs.names, st.lists(inputs.names, min_size=1, max_size=3)))
def identifiers_stay_in_their_quotes(_: Lab, example: tuple[str, list[str]]) -> Sequence[str]:
    """Any table and key names are refused, or make statements that hold nothing but them."""
    target, key = example
    table, ending = readable(
        lambda: _config(tables={"t/x": {"target": target, "mode": "merge", "primary_key": key}}).tables["t/x"]
    )
    if table is None:
        return [ending]
    columns = {k: Column(k, "TEXT") for k in key}
    plan = stage.schema.ColumnPlan(columns, tuple(columns.values()), {}, dict.fromkeys(key, "TEXT"))
    version = FileVersion(SOURCE, "k", "e")
    file = SourceFile(version, "k", "t/x", Kind.CHANGE, "", table, target)
    found = stage.Prepared(file, ObjectInfo(version, 1, NOW), plan, 0, pa.table({}), {})
    part = apply.Part(apply.Place(target, table, 1), (found,), (), "k", {}, {})
    _, ending = readable(lambda: _check_sql(part, table))
    return [ending]


@entrance(
    st.tuples(inputs.names, inputs.names, st.sampled_from(("hard", "soft")), st.sampled_from(("create", "fail"))),
    END_TO_END,
)
def tables_of_any_name(lab: Lab, example: tuple[str, str, str, str]) -> Sequence[str]:
    """A table map with any names migrates, loads, is audited and purged, or is refused; nothing else is touched."""
    target, key, deletes, missing = example
    assume(target != "canary")
    entry = {"target": target, "mode": "merge", "primary_key": [key], "deletes": deletes, "missing_table": missing}
    own = [target] if not target.startswith("cdc_") else []
    with Bench(lab, targets=["merge", *own], tables={"t/merge": TABLES["t/merge"], "t/x": entry}) as bench:
        answer, ending = bench.migrate()
        if answer is None:
            bench.check()
            return [f"migrate {ending}"]
        body = inputs.parquet(pa.table({"Op": ["I", "D"], key: [1, 2], "v": ["a", None]})) if key != "v" else None
        assume(body is not None)
        records = []
        for number, name in enumerate(("20260101-1", "LOAD00000001")):
            path = f"{PREFIX}t/x/{name}.parquet"
            records.append(bench.announce(path, bench.put(path, body or b""), number))
        ends = [_end_of(bench, r, bench.batch([r])) for r in records]
        ends += [f"{task} {bench.clean(task)[1]}" for task in ("sweep", "audit", "purge", "reconcile")]
        bench.drain()
        bench.check()
    return ends


# ---------------------------------------------------------------- (e) the ledger, edited by hand


def _values(column: str) -> st.SearchStrategy[object]:
    known = st.sampled_from(inputs.EDITED[column])
    if any(isinstance(value, int) for value in inputs.EDITED[column]) or column.endswith("_at"):
        return known
    return known | inputs.text.filter(lambda t: t.isprintable())


_edits = st.one_of(
    st.sampled_from(sorted(inputs.EDITED)).flatmap(lambda c: st.tuples(st.just("update"), st.just(c), _values(c))),
    st.sampled_from(sorted(inputs.EDITED)).flatmap(lambda c: st.tuples(st.just("update"), st.just(c), _values(c))),
    st.just(("delete", "", None)),
    st.just(("double", "", None)),
    st.just(("insert", "", None)),
    st.sampled_from((("lease", "", None), ("holder", "junk", None), ("holder", "", None))),
)
_then = st.sampled_from(("deliver", "deliver", "sweep", "reconcile", "purge", "audit", "status", "drain"))
_which = st.sampled_from(("merge-good", "log-good", "merge-poison", "all"))


@entrance(st.lists(st.tuples(_edits, _which, _then), min_size=1, max_size=4), END_TO_END)
def ledger_edited_by_hand(lab: Lab, steps: Any) -> Sequence[str]:
    """Whatever a person types into the ledger: nothing is lost or applied twice, and no function breaks."""
    with Bench(lab) as bench:
        bodies = {"merge-good": GOOD_FILE, "log-good": GOOD_FILE, "merge-poison": b"PAR1 junk"}
        records: dict[str, Record] = {}
        for number, (name, body) in enumerate(bodies.items()):
            key = f"{PREFIX}t/{name.split('-')[0]}/20260101-{number + 1}.parquet"
            records[name] = bench.announce(key, bench.put(key, body), number)
        bench.batch([records["merge-good"], records["merge-poison"]])
        ends = []
        for edit, which, then in steps:
            ends.append(
                f"{edit[0]} {edit[1]}".strip() + ("" if _edit(bench, edit, which) else " (refused by the engine)")
            )
            ends.append(_go_on(bench, records, which, then))
        bench.clock.sleep(100)
        for task in ("sweep", "reconcile"):
            _go_on(bench, records, "all", task)
        _go_on(bench, records, "all", "drain")
        bench.sql("UPDATE cdc_tables SET holder = NULL, lease_until = NULL WHERE holder = 'junk'")
        kept = bench.batch(list(records.values()))
        for record in records.values():
            _end_of(bench, record, kept)
        _all_settled(bench)
        if bench.sql('SELECT COUNT(*) FROM "log"') not in ([["3"]], [[3]]) and not _held_back(bench):
            raise BrokenError(f"the append table holds {bench.sql('SELECT * FROM log')}")
        bench.check()
    return ends


def _held_back(bench: Bench) -> bool:
    """Whether the append table's file is not applied (then it was shown to stand elsewhere)."""
    return bench.sql("SELECT 1 FROM cdc_applied WHERE target_table = 'log'") == []


def _edit(bench: Bench, edit: tuple[str, str, object], which: str) -> bool:
    how, column, value = edit
    mine = f"pipeline = '{SOURCE}/{PREFIX}'"
    if which != "all":
        mine += f" AND object_key LIKE '%/{which.split('-')[0]}/%'"
    columns = ", ".join(sorted(inputs.EDITED))
    sql = {
        "update": f"UPDATE cdc_processed_files SET {column} = {literal(value)} WHERE {mine}",
        "delete": f"DELETE FROM cdc_processed_files WHERE {mine}",
        "double": f"INSERT INTO cdc_processed_files ({columns}) SELECT {columns} FROM cdc_processed_files WHERE {mine}",
        "insert": "INSERT INTO cdc_processed_files (file_key, status, file_id, pipeline, turn, bucket, object_key, "
        f"etag, recorded_status, alone_count) VALUES ('by/hand', 'pending', 'junk', '{SOURCE}/{PREFIX}', 'merge', "
        f"'{SOURCE}', 'by/hand', 'junk', 'failed', 0)",
        "lease": "UPDATE cdc_tables SET lease_until = NULL",
        "holder": f"UPDATE cdc_tables SET holder = {literal(column)} WHERE pipeline <> 'foreign/'",
    }[how]
    if how == "lease":
        sql += " WHERE pipeline <> 'foreign/'"
    try:
        bench.sql(sql)
    except ValueError:
        return False
    return True


def _go_on(bench: Bench, records: dict[str, Record], which: str, then: str) -> str:
    if then == "deliver":
        batch = list(records.values()) if which == "all" else [records[which]]
        kept = bench.batch(batch)
        return " + ".join(sorted({_end_of(bench, r, kept) for r in batch}))
    if then == "drain":
        bench.drain()
        return "drained"
    if then == "status":
        _, ending = readable(lambda: _status(bench))
        if ending != "accepted":
            raise BrokenError(f"status cannot be shown: {ending}")
        return f"status {ending}"
    bench.clock.sleep(40)
    answer, ending = bench.clean(then)
    bench.collect()
    if answer is None:
        raise BrokenError(f"{then} cannot go on: {ending}")
    return f"{then} {ending}"


def _status(bench: Bench) -> None:
    settings = _config(url=bench.proxy.url)
    engine = Engine.of(settings, Deadline(60))
    try:
        for name, rows in status.overview(engine, settings).items():
            for row in rows:
                json.dumps(dict(zip(status.SECTIONS[name].columns, row, strict=True)), default=str)
    finally:
        engine.close()


def _all_settled(bench: Bench) -> None:
    """Every object of the source stands somewhere; no version is applied twice."""
    doubled = bench.sql("SELECT applied_id FROM cdc_applied GROUP BY applied_id HAVING COUNT(*) > 1")
    if doubled:
        raise BrokenError(f"applied twice: {doubled}")
    bench.collect()
    for thing in bench.lab.s3.list_objects_v2(Bucket=SOURCE, Prefix=PREFIX).get("Contents", []):
        etag = thing["ETag"].strip('"')
        if bench.ending(events.Delivery(SOURCE, thing["Key"], etag, Origin.S3, NOW)) is None:
            raise BrokenError(f"{thing['Key']} is lost: not applied, in the ledger, on the queue or a dead letter")


# ---------------------------------------------------------------- (f) configuration, secret, environment


def _config(url: str = "http://127.0.0.1:1", **changes: Any) -> Config:
    return config.parse(
        json.dumps(_plain() | {"firebolt": {"database": "firebolt", "core_url": url}} | changes), "fuzz"
    )


def _plain() -> dict[str, Any]:
    return {
        "name": "fuzz",
        "source": {"bucket": SOURCE, "prefix": PREFIX, "suffix": ".parquet", "start_after": "2026-01-01T00:00:00Z"},
        "firebolt": {
            "account_name": "a", "database": "d", "engine_name": "e", "secret_arn": "arn:s", "s3_role_arn": "arn:r"
        },
        "queue": {"url": "u", "arn": "a", "dlq_url": "d", "dlq_arn": "e"},
        "staging": {"bucket": MODULE},
        "unlisted_tables": "append",
        "tables": TABLES | {"t/o": {"target": "o", "mode": "append", "order": {"by": "change_seq", "column": "seq"}}},
        "loader": {"max_attempts": 3},
        "cleanup": {"retention_days": 30},
    }  # fmt: skip


_texts = st.one_of(
    inputs.damaged(st.builds(_plain), hits=3).map(lambda value: json.dumps(value).encode()),
    inputs.damaged(st.builds(_plain), hits=3).map(lambda value: json.dumps(value).encode()),
    inputs.deep.map(str.encode),
    st.binary(max_size=40),
    inputs.text,
)


@entrance(_texts)
def configuration(_: Lab, text: str | bytes) -> Sequence[str]:
    """Any text is a configuration that the pipeline can be described with, or refused by name."""
    try:
        found, ending = readable(lambda: config.parse(text, "here"))
    except UnicodeError as error:
        raise BrokenError(f"not a classified error: {error!r}") from error
    if found is not None:
        for derive in (lambda: found.turns, lambda: found.locations, lambda: found.source.pipeline):
            readable(derive)
    return [ending]


class _Answers:
    """S3 or Secrets Manager with one answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def get_object(self, **_: Any) -> dict[str, Any]:
        return {"Body": io.BytesIO(self._give())}

    def get_secret_value(self, **_: Any) -> Any:
        return self._give()

    def _give(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


_refusals = st.builds(
    lambda code, status: ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Get"
    ),
    st.sampled_from(("NoSuchKey", "404", "412", "ResourceNotFoundException", "Throttling", "NoSuchBucket", ""))
    | inputs.text,
    st.sampled_from((400, 404, 412, 500, 503)),
)
_MARK = "s3cr3t-that-must-not-be-shown"
_secrets = st.one_of(
    inputs.damaged(st.just({"client_id": "me", "client_secret": _MARK})).map(json.dumps),
    inputs.damaged(st.just([_MARK, {"client_id": _MARK}])).map(json.dumps),
    st.just(f"{{'client_id': '{_MARK}'}}"),
    inputs.deep,
    inputs.text,
).map(lambda text: {"SecretString": text})


@entrance(_secrets | st.just({}) | st.just({"SecretBinary": b"x"}) | _refusals)
def secrets(_: Lab, answer: Any) -> Sequence[str]:
    """Any secret gives two texts or a refusal that does not show it."""

    def read() -> dict[str, str]:
        try:
            return config.secret("arn:secret", _Answers(answer))
        except CdcError as error:
            if _MARK in str(error) or "arn:secret" not in str(error):
                raise BrokenError(f"the refusal shows the secret or does not name it: {error}") from error
            raise

    found, ending = readable(read)
    if found is not None and not all(isinstance(v, str) and v for v in found.values()):
        raise BrokenError(f"no usable secret, and not refused: {sorted(found)}")
    return [ending]


_environments = st.dictionaries(
    st.sampled_from(("CDC_CONFIG_BUCKET", "CDC_CONFIG_KEY", "CDC_CONFIG_VERSION_ID", "OTHER")), inputs.text
)


@entrance(
    st.tuples(
        _environments, _texts.map(lambda t: t if isinstance(t, bytes) else t.encode("utf-8", "replace")) | _refusals
    )
)
def environments(_: Lab, example: Any) -> Sequence[str]:
    """Any environment and object give a configuration or a refusal."""
    environment, answer = example
    _, ending = readable(lambda: config.load(environment, _Answers(answer)))
    return [ending]


@entrance(inputs.text | st.text(inputs.anything))
def messages_are_redacted(_: Lab, text: str) -> Sequence[str]:
    """Any message becomes one line that a queue's attribute and the ledger take."""
    for limit in (1, 10, 500):
        found = redact(text, limit)
        if len(found) > limit or any(
            c != " " and not c.isprintable() and (c < " " or "\ud800" <= c <= "\udfff") for c in found
        ):
            raise BrokenError(f"{found!r} is not one line of {limit} characters")
    return ["accepted"]
