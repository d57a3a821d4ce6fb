"""The clock: how long a network takes, in parts, by protocols, and how much memory."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
