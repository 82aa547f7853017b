"""Errors of the stand-in, in the shape in which Firebolt reports them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SqlError(Exception):
    """A refused or failed statement.

    ``name`` is the error's class as Firebolt prints it, ``http_status`` the status of the answer;
    status 200 means that the errors travel in the body of a successful answer.
    """

    description: str
    name: str = "Execution Error"
    code: str = "0"
    http_status: int = 400
    line: int = 0
    offset: int = 0

    def __str__(self) -> str:
        return self.description


def refused(what: str) -> SqlError:
    """The statement uses something that Firebolt's documentation does not have."""
    return SqlError(f"{what} is not part of Firebolt's documented SQL", name="Unsupported")


def absent(what: str) -> SqlError:
    """Firebolt documents it, the stand-in does not have it."""
    return SqlError(f"{what} is not part of the stand-in (Firebolt documents it)", name="Unsupported")


def aborted() -> SqlError:
    """Any statement but ROLLBACK in a transaction in which one failed (page "Explicit Transactions")."""
    return SqlError(
        "current transaction is aborted, commands ignored until end of transaction block",
        name="Transaction Error",
    )


class CutConnection(Exception):
    """Raised by a hook: close the client's connection without an answer."""
