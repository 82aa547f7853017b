"""What a Lambda's environment always holds; the handlers' logger and metrics read it when they are imported."""

import logging
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
    from moto.moto_server import utilities, werkzeug_app
    from moto.server import ThreadedMotoServer

    from support import cheaper, use_aws  # the handlers, which read the environment above

    class AnyCharacter(utilities.RegexConverter):
        """moto's route of an object is a `.+`, which ends at a newline: it answers 404 for such keys (moto 5.2.5)."""

        def __init__(self, url_map: object, *items: str) -> None:
            super().__init__(url_map, *items)
            self.regex = f"(?s:{self.regex})"

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    assert werkzeug_app.RegexConverter is utilities.RegexConverter
    werkzeug_app.RegexConverter = AnyCharacter
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    use_aws(url)
    with cheaper():
        yield url
    server.stop()
