"""Tests run in parallel, so each process computes on one thread."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch

from tests.browser import browser, page

__all__ = ["browser", "page"]

torch.set_num_threads(1)
