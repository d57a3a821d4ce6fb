"""Label sets, data sets, drawn street scenes, caches, augmentation, balanced sampling, loading, and the data check."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
