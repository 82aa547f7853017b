"""Each module's CASES, run once through one pipeline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from corpus.harness import Corpus
from standin import StandIn
from support import use_aws


@pytest.fixture(scope="module")
def corpus(aws: str, request: pytest.FixtureRequest) -> Iterator[Corpus]:
    use_aws(aws)
    with StandIn(s3_endpoint=aws) as engine:
        made = Corpus(engine, request.module.CASES)
        made.run()
        yield made
        made.pipeline.sql.close()
