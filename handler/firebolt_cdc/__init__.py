"""Loads the Parquet files that AWS DMS writes to S3 into Firebolt: each file version once, in commit order.

The way of a file through the modules: `events` (what was delivered) -> `files` (which file, which table,
which order) -> `ledger` (claim the table's turn) -> `parquet` (read) -> `changes` (what its rows do, and in which
order) -> `stage` (check, collapse) -> `apply` (one transaction) -> `ledger` (completed). `loader`, `cleanup` and
`migrate` are the Lambda entry points, `cli` the operator's; it calls `direct` (load from here), `plan` and `reload`
(a table begins anew), and `settle`.
"""

__version__ = "0.1.0"
