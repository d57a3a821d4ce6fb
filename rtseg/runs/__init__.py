"""From a preset to a report: configuration, plan, stages, the runner, sweeps."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
