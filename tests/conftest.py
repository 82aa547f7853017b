"""What a Lambda's environment always holds; the handlers' logger and metrics read it when they are imported."""

import os

os.environ.update(POWERTOOLS_SERVICE_NAME="test", POWERTOOLS_METRICS_NAMESPACE="FireboltCdc")
