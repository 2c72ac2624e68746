"""Nothing is downloaded: models are made from configurations."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any of these packages is imported
