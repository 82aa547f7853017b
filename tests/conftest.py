"""What a Lambda's environment always holds; the handlers' logger and metrics read it when they are imported."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("here", deadline=None, print_blob=True)  # a busy machine is no failure
settings.load_profile("here")
os.environ.update(POWERTOOLS_SERVICE_NAME="test", POWERTOOLS_METRICS_NAMESPACE="FireboltCdc")


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The URL of moto's server, started once."""
    from moto.server import ThreadedMotoServer

    from support import use_aws  # the handlers, which read the environment above

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    use_aws(url)
    yield url
    server.stop()
