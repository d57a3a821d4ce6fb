"""Figures: architectures, masks, latency, curves, tables."""

import lazy_loader as lazy

from rtseg import explore

_own, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


def __getattr__(name: str):
    """The explorers live in `rtseg.explore`; people who know them from here still find them."""
    return getattr(explore, name) if name in explore.__all__ else _own(name)
