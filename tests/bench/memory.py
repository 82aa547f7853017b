"""How much memory a loader needs for a large file, beside a small one: `make bench`.

Each file is generated in a temporary directory, served as an S3 would serve it, and prepared (a full load) or prepared
and staged (changes) in a process of its own, as the loader does it. The full load's rows take about 1 GB; the change
file takes what a loader of MEMORY_MB has room for. Prints each process's peak resident memory (Linux).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

from firebolt_cdc.config import Table
from firebolt_cdc.files import FileVersion, Kind, SourceFile
from firebolt_cdc.parquet import OWN_BYTES, room_bytes
from firebolt_cdc.schema import Column
from firebolt_cdc.stage import prepare, stage
from firebolt_cdc.storage import ObjectInfo, ObjectReader

BUCKET = "bench"
MEMORY_MB = 2048
"""The loader's default (`loader.memory_mb`)."""
GROUP_ROWS = 50_000
TEXT_BYTES = 160
TARGET = (Column("id", "BIGINT", nullable=False), Column("amount", "NUMERIC(20, 2)"), Column("note", "TEXT"))
SCHEMA = pa.schema([("Op", pa.string()), ("id", pa.int64()), ("amount", pa.decimal128(18, 2)), ("note", pa.string())])
TABLE = Table.model_validate({"target": "t", "mode": "merge", "primary_key": ["id"]})


def groups(rows: int, operation: str) -> Iterator[pa.Table]:
    """Rows that hardly compress; every tenth row of a group changes a key that the group has already."""
    rng = random.Random(1)
    for start in range(0, rows, GROUP_ROWS):
        count = min(GROUP_ROWS, rows - start)
        noise = rng.randbytes(count * TEXT_BYTES // 2).hex()
        yield pa.table(
            {
                "Op": pa.array([operation] * count),
                "id": pa.array([start + (n - n % 10 if n % 10 == 1 else n) for n in range(count)], pa.int64()),
                "amount": pa.array(range(count), pa.int64())
                .cast(pa.decimal128(20, 0))
                .cast(pa.decimal128(18, 2), safe=False),
                "note": pa.array([noise[n * TEXT_BYTES : (n + 1) * TEXT_BYTES] for n in range(count)]),
            },
            schema=SCHEMA,
        )


def write(path: Path, rows: int, kind: Kind) -> None:
    """A Parquet file of so many rows, in row groups of GROUP_ROWS."""
    with pq.ParquetWriter(path, SCHEMA, compression="snappy") as writer:
        for table in groups(rows, "I" if kind is Kind.FULL else "U"):
            writer.write_table(table, row_group_size=GROUP_ROWS)


def measure(kind: Kind, key: str) -> None:
    """Prepare one object as the loader does, and print rows, seconds and this process's peak in MiB."""
    begun = time.monotonic()
    s3 = boto3.client("s3")
    head = s3.head_object(Bucket=BUCKET, Key=key)
    info = ObjectInfo(FileVersion(BUCKET, key, head["ETag"].strip('"')), head["ContentLength"], datetime.now(UTC))
    stamp = "" if kind is Kind.FULL else "20240101-00000000000000000001"
    file = SourceFile(info.version, key, "s/t", kind, stamp, TABLE, "t")
    prepared = prepare(ObjectReader(s3, info), file, info, TARGET, room_bytes(MEMORY_MB * 2**20))
    if prepared.rows is not None:
        stage([prepared], TABLE)
    print(f"{prepared.rows_read}\t{time.monotonic() - begun:.1f}\t{peak_mib()}")


def peak_mib() -> int:
    """This process's own peak; getrusage would also tell what its parent had before it was forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) // 2**10


def serve(path: Path) -> ThreadingHTTPServer:
    """The HEAD and ranged GET of S3, for the one file that lies at `path`: moto keeps and copies objects whole."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(200, path.stat().st_size)

        def do_GET(self) -> None:
            start, end = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
            self._answer(206, end + 1 - start)
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(end + 1 - start))

        def _answer(self, status: int, length: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", '"e"')
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            """Nothing: one line for each range is too many."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "KEY"), help=argparse.SUPPRESS)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the large full-load file")
    given = parser.parse_args()
    if given.measure:
        measure(Kind(given.measure[0]), given.measure[1])
        return
    row_bytes = TEXT_BYTES + 32
    room = room_bytes(MEMORY_MB * 2**20)
    files = [
        ("full", "small full load", 1_000),
        ("full", "large full load", given.megabytes * 10**6 // row_bytes),
        ("change", "small changes", 1_000),
        ("change", "large changes", int(room * 0.95) // (row_bytes + OWN_BYTES + 16)),
    ]
    print(f"a loader of {MEMORY_MB} MiB has {room // 2**20} MiB of room for rows")
    print(f"{'file':18}{'MiB in S3':>10}{'rows':>12}{'seconds':>9}{'peak MiB':>10}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.parquet")
        server = serve(path)
        os.environ.update(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_address[1]}", AWS_ACCESS_KEY_ID="test")
        os.environ.update(AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
        for kind, name, rows in files:
            write(path, rows, Kind(kind))
            command = [sys.executable, "-m", "bench.memory", "--measure", kind, path.name]
            found, seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            print(f"{name:18}{path.stat().st_size // 2**20:>10}{found:>12}{seconds:>9}{peak:>10}", flush=True)
        server.shutdown()


if __name__ == "__main__":
    main()
