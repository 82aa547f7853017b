"""S3 as the loader sees it: one version of one object, read by ranges, and the staging area."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from firebolt_cdc.config import Config
from firebolt_cdc.errors import AWS_ERRORS, GoneError, aws_error
from firebolt_cdc.events import plain_etag
from firebolt_cdc.files import FileVersion
from firebolt_cdc.telemetry import logger

PREFETCH_BYTES = 64 * 1024 * 1024
"""Objects up to this size are fetched whole; of larger ones only the ranges that are read."""


@dataclass(frozen=True)
class ObjectInfo:
    """What S3 says of an object."""

    version: FileVersion
    size_bytes: int
    last_modified: datetime


class ObjectReader(io.RawIOBase):
    """A seekable file over one version of an object; every request carries IfMatch."""

    def __init__(self, s3: Any, info: ObjectInfo) -> None:
        self._s3 = s3
        self._info = info
        self._position = 0
        self._body = self._fetch(0, info.size_bytes) if 0 < info.size_bytes <= PREFETCH_BYTES else None

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; reading past the end gives nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes; -1 for the rest."""
        end = self._info.size_bytes if size is None or size < 0 else min(self._info.size_bytes, self._position + size)
        if end <= self._position:
            return b""
        start, self._position = self._position, end
        return self._body[start:end] if self._body is not None else self._fetch(start, end)

    def _fetch(self, start: int, end: int) -> bytes:
        version = self._info.version
        try:
            answer = self._s3.get_object(
                Bucket=version.bucket, Key=version.key, IfMatch=version.etag, Range=f"bytes={start}-{end - 1}"
            )
            return bytes(answer["Body"].read())
        except AWS_ERRORS as error:
            raise aws_error(error, f"reading {version}") from error


class Storage:
    """The source's objects (read only) and the staging area."""

    def __init__(self, s3: Any, config: Config) -> None:
        self._s3 = s3
        self._config = config

    def look_up(self, bucket: str, key: str, etag: str | None = None) -> ObjectInfo:
        """What S3 holds under a key now.

        Raises:
            GoneError: nothing, or another version than `etag`.
            OutageError: S3 did not answer.
            TransientError: it refused.
        """
        try:
            answer = self._s3.head_object(Bucket=bucket, Key=key)
        except AWS_ERRORS as error:
            raise aws_error(error, f"looking up s3://{bucket}/{key}") from error
        found = plain_etag(answer["ETag"])
        if etag is not None and found != etag:
            raise GoneError(
                f"s3://{bucket}/{key}: overwritten since it was announced (etag {etag}, now {found}); the "
                "newer version has an event of its own"
            )
        return ObjectInfo(FileVersion(bucket, key, found), int(answer["ContentLength"]), answer["LastModified"])

    def open(self, info: ObjectInfo) -> ObjectReader:
        """Open one version of an object for reading."""
        return ObjectReader(self._s3, info)

    def listing(self, prefix: str | None = None) -> Iterator[ObjectInfo]:
        """Every object of the pipeline (prefix and suffix), or of a part of it, in S3's order."""
        return self._listing(self._config.source.prefix if prefix is None else prefix)

    def first_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """The first page of a listing: up to 1,000 objects. DMS's date folders sort before its full-load names."""
        return self._listing(prefix, {"MaxItems": 1000})

    def _listing(self, prefix: str, limits: dict[str, int] | None = None) -> Iterator[ObjectInfo]:
        source = self._config.source
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=source.bucket, Prefix=prefix, PaginationConfig=limits or {}
        )
        try:
            for page in pages:
                for thing in page.get("Contents", []):
                    if thing["Key"].endswith(source.suffix):
                        version = FileVersion(source.bucket, thing["Key"], plain_etag(thing["ETag"]))
                        modified = thing["LastModified"].replace(microsecond=0)  # as a look-up says it
                        yield ObjectInfo(version, int(thing["Size"]), modified)
        except AWS_ERRORS as error:
            raise aws_error(error, f"listing s3://{source.bucket}/{prefix}") from error

    def stage(self, name: str, body: bytes) -> str:
        """Put a file for the engine to read; returns its key."""
        staging = self._config.staging
        key = f"{staging.prefix}{name}"
        try:
            self._s3.put_object(Bucket=staging.bucket, Key=key, Body=body)
        except AWS_ERRORS as error:
            raise aws_error(error, f"writing s3://{staging.bucket}/{key}") from error
        return key

    def stage_copy(self, version: FileVersion, name: str) -> str:
        """Copy a source object, by its etag, into the staging area; returns the copy's key."""
        staging = self._config.staging
        key = f"{staging.prefix}{name}"
        try:
            self._s3.copy_object(
                Bucket=staging.bucket,
                Key=key,
                CopySource={"Bucket": version.bucket, "Key": version.key},
                CopySourceIfMatch=version.etag,
                TaggingDirective="REPLACE",  # else a source object with tags asks for rights on tags
            )
        except AWS_ERRORS as error:
            raise aws_error(error, f"copying {version} to s3://{staging.bucket}/{key}") from error
        return key

    def unstage(self, key: str) -> None:
        """Delete a staged file. That it stays is no failure of the work that is done: the bucket's lifecycle rule
        removes it."""
        try:
            self._s3.delete_object(Bucket=self._config.staging.bucket, Key=key)
        except AWS_ERRORS as error:
            logger.warning(
                "a staged file stays until the bucket's lifecycle rule removes it", key=key, error=str(error)
            )

    @contextlib.contextmanager
    def staged(self, name: str, body: bytes) -> Iterator[str]:
        """A staged file's key, for as long as the engine reads it."""
        key = self.stage(name, body)
        try:
            yield key
        finally:
            self.unstage(key)
