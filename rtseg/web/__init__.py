"""A page that segments in the browser: its files, its networks, its server, and a coat for somebody else's ONNX graph."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
