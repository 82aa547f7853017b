"""The pipeline's configuration: one JSON object that Terraform writes and pins by version for each function version."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from firebolt_cdc import __version__, aws
from firebolt_cdc.errors import AWS_ERRORS, PermanentError, aws_error, denied

ROLE_PAUSES_SECONDS = (2.0, 4.0, 8.0, 16.0)
"""A role's new policy takes some seconds to hold everywhere (IAM guide, "Changes are not always immediately visible"),
and the first apply invokes the migrate function right after it made one."""


DMS_FULL_LOAD = "LOAD[0-9A-Fa-f]{8,}"
DMS_CHANGES = "(?P<stamp>[0-9]{8}-[0-9]{1,20})"
"""DMS's file names (AWS DMS guide, "Using Amazon S3 as a target"): a hexadecimal counter, or a date and a time with a
varying number of digits. The module's variables.tf has the same defaults."""


class Model(BaseModel):
    """Strict about names: a key that this version does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mode(StrEnum):
    """`merge`: one row per primary key. `append`: every change is a row."""

    MERGE = "merge"
    APPEND = "append"


class OrderBy(StrEnum):
    """What orders the changes of a key: the stamp in the file's name, or columns.

    `change_seq` is AR_H_CHANGE_SEQ, `timestamp` a time, `number` a whole number that is not negative.
    """

    FILE = "file"
    CHANGE_SEQ = "change_seq"
    TIMESTAMP = "timestamp"
    NUMBER = "number"


class Deletes(StrEnum):
    """What a `D` does: removes the row, flags it (`_cdc_deleted`), or nothing."""

    HARD = "hard"
    SOFT = "soft"
    IGNORE = "ignore"


class Drift(StrEnum):
    """What a column does that the target lacks: it is added, fails the file, or is left out and announced."""

    ADD = "add"
    FAIL = "fail"
    IGNORE = "ignore"


class MissingTable(StrEnum):
    """What happens when the target table does not exist."""

    CREATE = "create"
    FAIL = "fail"


class Reloads(StrEnum):
    """What a full load does that DMS wrote anew: waits for the operator, or is carried out by the cleanup function."""

    HOLD = "hold"
    AUTO = "auto"


class Unlisted(StrEnum):
    """What happens to files of tables that the table map does not list."""

    FAIL = "fail"
    SKIP = "skip"
    APPEND = "append"


class Order(Model):
    """The order of a table's changes; one `column`, or several `columns` that compare one after another."""

    by: OrderBy = OrderBy.FILE
    column: str | None = None
    columns: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if self.column is not None and self.columns:
            raise ValueError("order.column and order.columns exclude each other")
        if (self.by is OrderBy.FILE) == bool(self.names):
            raise ValueError(f"order.column must be {'left out' if self.names else 'named'} for order.by = {self.by}")
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise ValueError("order.columns must name each column once, and no empty name")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, the most significant first; none for `file`."""
        return self.columns if self.column is None else (self.column,)

    @property
    def encoding(self) -> str:
        """Names how the columns' values stand in `_cdc_seq`."""
        if not self.names:
            return "file"
        return f"{self.by}:{self.names[0]}" if len(self.names) == 1 else f"{self.by}[]:{json.dumps(self.names)}"


class Files(Model):
    """Where a table's files lie and what their names say.

    Attributes:
        path: the part of their keys after the source prefix, empty or ending in `/`. None: `schema/table/`.
        full_load: the name, without suffix, of a file of a full load; matched as a whole, before `changes`.
        changes: the name of a file of changes. The text of its group `stamp` orders the files.
    """

    path: str | None = None
    full_load: str = DMS_FULL_LOAD
    changes: str = DMS_CHANGES

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.path and (self.path.startswith("/") or not self.path.endswith("/")):
            raise ValueError(f"files.path {self.path!r} must be empty, or end in / and not start with one")
        for setting, pattern in (("full_load", self.full_load), ("changes", self.changes)):
            try:
                re.compile(pattern, re.ASCII)
            except re.error as error:
                raise ValueError(f"files.{setting} {pattern!r} is not a regular expression: {error}") from error
        return self

    @cached_property
    def full_load_pattern(self) -> re.Pattern[str]:
        """To be matched against a whole name."""
        return re.compile(self.full_load, re.ASCII)

    @cached_property
    def changes_pattern(self) -> re.Pattern[str]:
        """To be matched against a whole name."""
        return re.compile(self.changes, re.ASCII)

    @property
    def named_by_dms(self) -> bool:
        """Whether the stamp is DMS's, whose digits after the dash are a time of day cut off anywhere."""
        return self.changes == DMS_CHANGES

    @property
    def stamped(self) -> bool:
        """Whether names say the order of files."""
        return "stamp" in self.changes_pattern.groupindex


class Op(Model):
    """The column that says what a row does, and its values; compared as text."""

    column: str = "Op"
    insert: tuple[str, ...] = ("I",)
    update: tuple[str, ...] = ("U",)
    delete: tuple[str, ...] = ("D",)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.column:
            raise ValueError("op.column must name a column")
        if len(set(self.values)) != len(self.values) or not self.values:
            raise ValueError("op.insert, op.update and op.delete must hold each value once, and at least one")
        return self

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that is known."""
        return self.insert + self.update + self.delete

    @property
    def written_by_dms(self) -> bool:
        """Whether it is DMS's own column, which DMS leaves out where every row is an insert."""
        return self == Op()


class DeleteMarker(Model):
    """A column that marks deleted rows; `values` are compared as text. `keep`: it is data as well."""

    column: str = Field(min_length=1)
    values: tuple[str, ...] = Field(min_length=1)
    keep: bool = False


class BeforeImage(Model):
    """How the columns with a row's former values are named (DMS's rule add-before-image-columns)."""

    prefix: str = "BI_"
    suffix: str = ""

    @model_validator(mode="after")
    def _marked(self) -> Self:
        if not self.prefix and not self.suffix:
            raise ValueError("before_image needs a prefix or a suffix")
        return self

    def name(self, column: str) -> str:
        """The before-image column of a column."""
        return f"{self.prefix}{column}{self.suffix}"

    def is_named(self, column: str) -> bool:
        """Whether a column is a before-image column."""
        marks = len(self.prefix) + len(self.suffix)
        return len(column) > marks and column.startswith(self.prefix) and column.endswith(self.suffix)


OWN_PREFIX = "cdc_"
"""Names of the pipeline's own tables and views begin so; no target's name may."""
RELOAD_MARK = "__cdc_reload_"
"""Stands between a target and a number in the name of the table that a reload fills; in no target's name."""
LONGEST_NAME = 255
"""Characters of an identifier (Firebolt's documentation, "Object identifiers")."""


def is_own(name: str) -> bool:
    """Whether a name is kept for the pipeline's own tables, in any case: no reader need tell `CDC_` from `cdc_`."""
    return name.lower().startswith(OWN_PREFIX) or RELOAD_MARK in name.lower()


class Table(Model):
    """How the files of one source table are applied to one target table."""

    target: str
    mode: Mode
    primary_key: tuple[str, ...] = ()
    files: Files = Files()
    order: Order = Order()
    op: Op = Op()
    delete_marker: DeleteMarker | None = None
    before_image: BeforeImage | None = None
    deletes: Deletes = Deletes.HARD
    schema_drift: Drift = Drift.ADD
    missing_table: MissingTable = MissingTable.CREATE
    reload: Reloads = Reloads.HOLD

    @model_validator(mode="after")
    def _merge_has_key(self) -> Self:
        if is_own(self.target):
            raise ValueError(
                f"table {self.target}: names that begin with {OWN_PREFIX} or hold {RELOAD_MARK} are the ledger's own"
            )
        if self.mode is Mode.MERGE and not self.primary_key:
            raise ValueError(f"table {self.target}: mode merge needs primary_key; use mode append for a table without")
        return self

    @model_validator(mode="after")
    def _merge_has_order(self) -> Self:
        if self.mode is Mode.MERGE and not self.files.stamped and not self.order.names:
            raise ValueError(
                f"table {self.target}: mode merge needs the order of files: a group (?P<stamp>…) in files.changes, or "
                "order columns"
            )
        return self

    @model_validator(mode="after")
    def _control_is_no_key(self) -> Self:
        control = {self.op.column}
        if self.delete_marker is not None and not self.delete_marker.keep:
            control.add(self.delete_marker.column)
        if self.before_image is not None:
            if self.mode is not Mode.MERGE:
                raise ValueError(f"table {self.target}: before_image is for mode merge; an append table keeps all rows")
            control |= {key for key in self.primary_key if self.before_image.is_named(key)}
        if wrong := sorted(control & set(self.primary_key)):
            raise ValueError(f"table {self.target}: {wrong} cannot be both primary_key and a column that is no data")
        return self

    @property
    def order_format(self) -> str:
        """Names the encoding of `_cdc_seq`; a table whose format changes needs a new generation."""
        return self.order.encoding + ("" if self.files.named_by_dms else f" {self.files.changes}")

    @property
    def buries(self) -> bool:
        """Whether a staged `D` removes its row and leaves a tombstone.

        With `deletes = "ignore"` the source's own are never staged; what is left are old keys of rows that moved.
        """
        return self.deletes is Deletes.HARD or (self.deletes is Deletes.IGNORE and self.before_image is not None)


class Source(Model):
    """Where DMS writes. `prefix` is cut off an object's key to make its `file_key`."""

    bucket: str
    prefix: str = ""
    suffix: str = ".parquet"
    start_after: datetime | None = None

    @property
    def pipeline(self) -> str:
        """The name under which this source owns its targets and ledger rows."""
        return f"{self.bucket}/{self.prefix}"


class Firebolt(Model):
    """Which engine: a service account's engine, or a Firebolt Core by URL."""

    account_name: str | None = None
    database: str
    engine_name: str | None = None
    api_endpoint: str = "api.app.firebolt.io"
    secret_arn: str | None = None
    core_url: str | None = None
    source_location: str | None = None
    staging_location: str | None = None
    s3_role_arn: str | None = None
    s3_role_external_id: str | None = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        managed = (self.account_name, self.engine_name, self.secret_arn)
        if self.core_url is None and not all(managed):
            raise ValueError("firebolt needs either core_url, or account_name, engine_name and secret_arn")
        if self.core_url is not None and any(managed):
            raise ValueError("firebolt.core_url excludes account_name, engine_name and secret_arn")
        if (self.source_location is None) != (self.staging_location is None):
            raise ValueError("firebolt.source_location and staging_location are named together or not at all")
        if self.core_url is None and self.s3_role_arn is None and self.source_location is None:
            raise ValueError(
                "firebolt needs s3_role_arn (the migrate function then creates the LOCATION objects), or "
                "source_location and staging_location"
            )
        return self


class Queue(Model):
    """The queue between rule and loader, its dead-letter queue, and that of the EventBridge target."""

    url: str
    arn: str
    dlq_url: str
    dlq_arn: str
    target_dlq_url: str | None = None


class Staging(Model):
    """Where the loader puts the files that the engine reads."""

    bucket: str
    prefix: str = "staging/"


class Loader(Model):
    """`max_attempts`: how often a file is tried alone before it is `failed` for good."""

    max_attempts: int = Field(default=3, ge=1)
    timeout_seconds: int = Field(default=300, ge=1)


class Cleanup(Model):
    """Ages and limits of the cleanup tasks."""

    retention_days: int = Field(default=30, ge=1)
    sweep_interval_seconds: int = Field(default=300, ge=1)
    queue_limit: int = Field(default=1000, ge=1)
    reconcile_grace_seconds: int = Field(default=900, ge=0)
    reload_quiet_seconds: int = Field(default=900, ge=0)


class Config(Model):
    """Everything that a function version knows about its pipeline."""

    config_version: int = 1
    name: str
    region: str | None = None
    source: Source
    firebolt: Firebolt
    queue: Queue
    staging: Staging
    deduplication_enabled: bool = True
    unlisted_tables: Unlisted = Unlisted.FAIL
    tables: dict[str, Table]
    loader: Loader = Loader()
    cleanup: Cleanup = Cleanup()
    metrics_namespace: str = "FireboltCdc"

    @model_validator(mode="after")
    def _targets_are_unique(self) -> Self:
        seen: dict[str, str] = {}
        for source, table in self.tables.items():
            if source.count("/") != 1 or not all(source.split("/")):
                raise ValueError(f"tables: {source!r} is not of the form schema/table")
            if table.target in seen:
                raise ValueError(f"tables: {seen[table.target]} and {source} both load into {table.target}")
            seen[table.target] = source
        return self

    @model_validator(mode="after")
    def _paths_are_unique(self) -> Self:
        seen: dict[str, str] = {}
        for source in self.tables:
            path = self.path(source)
            if path in seen:
                raise ValueError(f"tables: the files of {seen[path]} and {source} both lie below {path!r}")
            seen[path] = source
        return self

    def path(self, source: str) -> str:
        """Where the files of a listed table lie below the source prefix."""
        path = self.tables[source].files.path
        return f"{source}/" if path is None else path

    @cached_property
    def sources(self) -> dict[str, str]:
        """The listed table by its path."""
        return {self.path(source): source for source in self.tables}

    @cached_property
    def unlisted_turn(self) -> str:
        """The `cdc_tables` row that files of unlisted tables and unreadable names share."""
        return f"*{self.source.pipeline}"

    @cached_property
    def locations(self) -> tuple[str, str] | None:
        """The LOCATION objects of source and staging; None where the engine reads by URL with its own credentials.

        The names of those that the migrate function creates change with what they say, so that a changed role or
        bucket gives new ones.
        """
        firebolt = self.firebolt
        if firebolt.source_location is not None and firebolt.staging_location is not None:
            return firebolt.source_location, firebolt.staging_location
        if firebolt.s3_role_arn is None:
            return None
        what = [
            firebolt.s3_role_arn,
            firebolt.s3_role_external_id or "",
            self.source.pipeline,
            f"{self.staging.bucket}/{self.staging.prefix}",
        ]
        mark = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
        stem = "cdc_" + re.sub(r"[^a-z0-9]+", "_", self.name.lower())
        return f"{stem}_source_{mark}", f"{stem}_staging_{mark}"

    @property
    def turns(self) -> dict[str, str]:
        """Order format by turn (target table, or the shared row): what the migrate function seeds."""
        return {self.unlisted_turn: "file"} | {table.target: table.order_format for table in self.tables.values()}


def parse(text: str | bytes, origin: str) -> Config:
    """Read a configuration; `origin` names it in the error.

    Raises:
        PermanentError: the text is not a configuration of this version.
    """
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        raise PermanentError(
            f"configuration {origin} is not valid for firebolt-cdc {__version__}, which must be of the version of the "
            f"module that wrote it: {problems}"
        ) from error


def load(environment: dict[str, str] | None = None, s3: Any = None) -> Config:
    """Fetch the configuration that the environment pins (CDC_CONFIG_BUCKET, _KEY, _VERSION_ID).

    Raises:
        PermanentError: the environment names none, or its content is not valid.
        TransientError, GoneError: S3 did not give it.
    """
    env = dict(os.environ) if environment is None else environment
    try:
        place = {"Bucket": env["CDC_CONFIG_BUCKET"], "Key": env["CDC_CONFIG_KEY"]}
    except KeyError as missing:
        raise PermanentError(
            f"the environment variable {missing.args[0]} is not set: it names the "
            "configuration object that the Terraform module writes"
        ) from missing
    if env.get("CDC_CONFIG_VERSION_ID"):
        place["VersionId"] = env["CDC_CONFIG_VERSION_ID"]
    origin = f"s3://{place['Bucket']}/{place['Key']} (version {place.get('VersionId', 'latest')})"
    client = s3 or aws.client("s3")
    for patience in (*ROLE_PAUSES_SECONDS, None):
        try:
            return parse(client.get_object(**place)["Body"].read(), origin)
        except AWS_ERRORS as error:
            if patience is None or not denied(error):
                raise aws_error(error, f"reading the configuration {origin}") from error
            time.sleep(patience)
    raise AssertionError("the last try returns or raises")


def secret(arn: str, client: Any = None) -> dict[str, str]:
    """The service account in Secrets Manager: a JSON object with `client_id` and `client_secret`.

    Raises:
        PermanentError: the secret holds something else. Its content is never part of the message.
        TransientError: Secrets Manager did not give it.
    """
    secrets = client or aws.client("secretsmanager")
    try:
        text = secrets.get_secret_value(SecretId=arn)["SecretString"]
    except AWS_ERRORS as error:
        raise aws_error(error, f"reading the secret {arn} (has a value been put into it?)") from error
    except KeyError:
        raise PermanentError(
            f"the secret {arn} is binary; put a JSON object with client_id and client_secret"
        ) from None
    try:
        value = json.loads(text)
        found = {name: value[name] for name in ("client_id", "client_secret")}
        if not all(isinstance(part, str) and part for part in found.values()):
            raise ValueError("not text")
        return found
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PermanentError(f"the secret {arn} is not a JSON object with client_id and client_secret") from None
