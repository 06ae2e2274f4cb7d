"""The container images that the pipeline's steps run in: the only place that names them.

A cluster build overrides them at compile time: EVERBERT_IMAGE_TORCH, EVERBERT_IMAGE_LIGHT.
"""

import os

TORCH = os.environ.get("EVERBERT_IMAGE_TORCH", "everbert/components-torch-python:0.1.0")
LIGHT = os.environ.get("EVERBERT_IMAGE_LIGHT", "everbert/components-light-python:0.1.0")
