"""A trained network on its way out: checks, quantisation, the fastest faithful form, its card, its server, benches."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
