"""The container images: the only place that names them. The manifests use these names too, held by a test.

A cluster build overrides them at compile time: EVERBERT_IMAGE_TORCH, EVERBERT_IMAGE_LIGHT, EVERBERT_IMAGE_SERVING,
EVERBERT_IMAGE_SERVICES.
"""

import os

TORCH = os.environ.get("EVERBERT_IMAGE_TORCH", "everbert/components-torch-python:0.1.0")
LIGHT = os.environ.get("EVERBERT_IMAGE_LIGHT", "everbert/components-light-python:0.1.0")
SERVING = os.environ.get("EVERBERT_IMAGE_SERVING", "everbert/serving-python:0.1.0")
# SeaweedFS (`weed`) and the MLflow server with its PostgreSQL driver, for clusters that have none.
SERVICES = os.environ.get("EVERBERT_IMAGE_SERVICES", "everbert/services-python:0.1.0")
