"""Figures: architectures, masks, latency, curves, tables."""

from importlib import import_module

import lazy_loader as lazy

_own, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


def __getattr__(name: str):
    """The explorers live in `rtseg.explore`; people who know them from here still find them."""
    if name.startswith("explore_"):
        return getattr(import_module("rtseg.explore"), name)
    return _own(name)
