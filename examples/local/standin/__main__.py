"""``python -m standin``: runs the stand-in until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from .server import StandIn


def main() -> None:
    """Reads the command line, serves, and writes the port to ``--port-file`` when ready."""
    parser = argparse.ArgumentParser(prog="standin", description="A stand-in for a Firebolt engine.")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument("--state", type=Path, required=True, help="directory of the data")
    parser.add_argument("--s3-endpoint", help="URL of the S3 that READ_PARQUET reads")
    parser.add_argument("--port-file", type=Path, help="file that gets the port number when the server is ready")
    parser.add_argument("--database", default="firebolt")
    parser.add_argument("--engine", default="standin", help="engine name for USE ENGINE")
    parser.add_argument("--account", default="local", help="account name of the service-account handshake")
    parser.add_argument("--conflicts", choices=("tablet", "row"), default="tablet")
    parser.add_argument("--conflict-status", type=int, choices=(400, 409, 500, 200), default=400)
    parser.add_argument("--single-writer", action="store_true", help="as Firebolt Core: one write transaction")
    parser.add_argument("--idle-timeout", type=float, default=24 * 3600.0, metavar="S")
    parser.add_argument("--max-statements", type=int, default=100)
    parser.add_argument("--merge-duplicates", choices=("error", "any"), default="error")
    parser.add_argument("--views-allow-alter", action="store_true", help="as from release 4.31 on")
    parser.add_argument("--lenient-types", action="store_true", help="TEXT into numbers, NUMERIC into NUMERIC")
    parser.add_argument("--forget-failed-commit", action="store_true", help="remove transaction_id on a conflict")
    parser.add_argument("--verbose", action="store_true", help="one line per statement on stderr")
    args = parser.parse_args()

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    engine = StandIn(
        args.state,
        s3_endpoint=args.s3_endpoint,
        port=args.port,
        verbose=args.verbose,
        database=args.database,
        engine=args.engine,
        account=args.account,
        conflicts=args.conflicts,
        conflict_status=args.conflict_status,
        single_writer=args.single_writer,
        idle_timeout_s=args.idle_timeout,
        max_statements=args.max_statements,
        merge_duplicates=args.merge_duplicates,
        views_block_alter=not args.views_allow_alter,
        strict_types=not args.lenient_types,
        forget_failed_commit=args.forget_failed_commit,
    )
    with engine:
        if args.port_file:
            partial = args.port_file.with_name(args.port_file.name + ".partial")
            partial.write_text(f"{engine.port}\n")
            partial.replace(args.port_file)
        stopped.wait()


if __name__ == "__main__":
    main()
