"""Hyper-parameter search: a space in YAML, a study that many workers share, trials that are training runs."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
