"""Metrics, ways of asking a network, the evaluator, predictions and submission files."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
