"""SlowFast-VGen: slow-fast learning for action-driven long video generation (arXiv 2410.23277)."""

from sfv.moved import install

__version__ = "0.1.0"

install()
