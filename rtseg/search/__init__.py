"""The search: space, supernet, latency table, co-search and its health, decoding, published FasterSeg files."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
