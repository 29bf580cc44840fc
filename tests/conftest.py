"""Tests run in parallel, so each process computes on one thread."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch

from tests.browser import browser, page
from tests.fixtures import config_data, data, demo, latents, world

__all__ = ["browser", "config_data", "data", "demo", "latents", "page", "world"]

torch.set_num_threads(1)
