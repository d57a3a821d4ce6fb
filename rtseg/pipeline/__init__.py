"""The names of `rtseg.runs`, for people who know them from here."""

from rtseg import runs

ROOMS = (runs,)
__all__ = sorted(name for room in ROOMS for name in room.__all__)


def __getattr__(name: str):
    for room in ROOMS:
        if name in room.__all__:
            return getattr(room, name)
    raise AttributeError(f"module 'rtseg.pipeline' has no attribute '{name}'")
