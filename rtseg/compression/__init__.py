"""Networks made smaller: what hangs together, which kernels matter, plans, steps, and the files that keep the result."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
