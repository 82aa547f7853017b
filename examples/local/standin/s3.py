"""Objects of the local S3, and READ_PARQUET's way of naming them (page "READ_PARQUET").

The engine reads with its own credentials (``AWS_ACCESS_KEY_ID``... or ``test``/``test``), as Firebolt Core does;
credentials in a LOCATION or in the call are accepted and not used.
"""

from __future__ import annotations

import fnmatch
import os
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import SqlError


@dataclass(frozen=True)
class S3Object:
    """One object: where it is, its entity tag without quotes, size in bytes, time of its last change."""

    bucket: str
    key: str
    etag: str
    size: int
    modified: datetime


class S3:
    """Lists and downloads objects from one endpoint; usable from several threads."""

    def __init__(self, endpoint: str | None) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._made: Any = None

    def _client(self) -> Any:
        if not self.endpoint:
            raise SqlError("the stand-in was started without an S3 endpoint (--s3-endpoint)")
        with self._lock:
            if self._made is None:
                import boto3
                from botocore.config import Config

                self._made = boto3.client(
                    "s3",
                    endpoint_url=self.endpoint,
                    region_name=os.environ.get("AWS_REGION", "us-east-1"),
                    aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID", "test"),
                    aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
                    aws_session_token=os.environ.get("AWS_SESSION_TOKEN"),
                    verify=os.environ.get("AWS_CA_BUNDLE") or None,
                    config=Config(
                        s3={"addressing_style": "path"},
                        connect_timeout=5,
                        read_timeout=60,
                        retries={"max_attempts": 2},
                    ),
                )
            return self._made

    def by_url(self, url: str) -> list[S3Object]:
        """The objects that a URL names: one object, a folder (ends in ``/``) or a glob."""
        bucket, key = split_url(url)
        special = min((key.index(c) for c in "*?[" if c in key), default=None)
        if special is None and key and not key.endswith("/"):
            return [self._one(bucket, key)]
        prefix = key if special is None else key[:special]
        pattern = key + "*" if special is None else key
        return self._matching(bucket, prefix, pattern, url)

    def by_pattern(self, url: str, pattern: str | None) -> list[S3Object]:
        """The objects below a LOCATION's URL; the glob is relative to it and ``*`` also matches ``/``."""
        bucket, base = split_url(url)
        if pattern is None:
            return self._matching(bucket, base, None, url)
        if base and not base.endswith("/"):
            base += "/"
        return self._matching(bucket, base, pattern, url, relative=True)

    def _one(self, bucket: str, key: str) -> S3Object:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            head = self._client().head_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise SqlError(f"cannot read s3://{bucket}/{key}: {error}", name="External Storage Error") from error
        return S3Object(bucket, key, head["ETag"].strip('"'), head["ContentLength"], head["LastModified"])

    def _matching(
        self, bucket: str, prefix: str, pattern: str | None, url: str, relative: bool = False
    ) -> list[S3Object]:
        from botocore.exceptions import BotoCoreError, ClientError

        found = []
        try:
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    name = item["Key"][len(prefix) :] if relative else item["Key"]
                    if pattern is None or fnmatch.fnmatchcase(name, pattern):
                        etag = item["ETag"].strip('"')
                        found.append(S3Object(bucket, item["Key"], etag, item["Size"], item["LastModified"]))
        except (ClientError, BotoCoreError) as error:
            raise SqlError(f"cannot list {url}: {error}", name="External Storage Error") from error
        if not found:
            raise SqlError(f"no files match {pattern!r} at {url}", name="External Storage Error")
        return found

    def download(self, item: S3Object, path: Path) -> None:
        """Writes the object to ``path`` in pieces, so that its size does not matter for memory."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            body = self._client().get_object(Bucket=item.bucket, Key=item.key)["Body"]
            with path.open("wb") as file:
                for chunk in body.iter_chunks(1 << 20):
                    file.write(chunk)
        except (ClientError, BotoCoreError) as error:
            raise SqlError(
                f"cannot read s3://{item.bucket}/{item.key}: {error}", name="External Storage Error"
            ) from error


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    if not url.startswith("s3://") or not url[5:].partition("/")[0]:
        raise SqlError(f"{url!r} is not of the form s3://bucket/path")
    bucket, _, key = url[5:].partition("/")
    return bucket, key
