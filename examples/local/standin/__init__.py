"""A stand-in for a Firebolt engine, for tests and for the local stack. It is a test instrument, not a database.

It speaks Firebolt's HTTP protocol to the unmodified firebolt-sdk and keeps Firebolt's transactions: snapshot
isolation, first committer wins, reported at COMMIT, per tablet (pages "Explicit Transactions" and "Data
management" of docs.firebolt.io). DuckDB evaluates expressions and joins; versions, conflicts, DDL and rollback are
this package's own. SQL that the documentation does not have is refused.

What a passing test here shows: the code's SQL is documented SQL with the documented meaning, and its protocol is
right under the documented rules of transactions, with real concurrency, real restarts and real HTTP.

What it does not show: speed; the real text and HTTP status of errors (a conflict's status can be chosen); how many
tablets a real partition has (here: one, the worst case; or rows, the best); rights and credentials in S3 or in
Firebolt; limits of size and memory; statements that this package does not have (COPY, EXTERNAL TABLE, indexes,
STRUCT, GEOGRAPHY, JSON, asynchronous queries). Where Firebolt's behaviour is unknown there is a switch
(``standin.Options``) and the default is the harder case for the client.
"""

from .engine import Options
from .errors import CutConnection, SqlError
from .server import StandIn

__all__ = ["CutConnection", "Options", "SqlError", "StandIn"]
