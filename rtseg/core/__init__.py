"""The ground: errors, registry, value objects, files, configuration, environment, run folder."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
