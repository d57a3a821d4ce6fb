"""The names of `rtseg.runtimes`, `rtseg.latency` and `rtseg.shipping` in one place, for people who know them from here."""

from rtseg import latency, runtimes, shipping

ROOMS = (latency, runtimes, shipping)
__all__ = sorted(name for room in ROOMS for name in room.__all__)


def __getattr__(name: str):
    for room in ROOMS:
        if name in room.__all__:
            return getattr(room, name)
    raise AttributeError(f"module 'rtseg.deployment' has no attribute '{name}'")
