"""The clock: how long a network takes, in parts, by protocols, and how much memory."""

from rtseg.latency.measuring import measure_latency
from rtseg.latency.memory import measure_memory
from rtseg.latency.parts import EndToEnd, measure_end_to_end, serve
from rtseg.latency.protocols import compare_protocols
from rtseg.latency.targets import latency_of

__all__ = ["EndToEnd", "compare_protocols", "latency_of", "measure_end_to_end", "measure_latency", "measure_memory", "serve"]
