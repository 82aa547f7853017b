"""What a Lambda's environment always holds; the handlers' logger and metrics read it when they are imported."""

import os

from hypothesis import settings

settings.register_profile("here", deadline=None, print_blob=True)  # a busy machine is no failure
settings.load_profile("here")
os.environ.update(POWERTOOLS_SERVICE_NAME="test", POWERTOOLS_METRICS_NAMESPACE="FireboltCdc")
