"""The clock: how long a network takes, in parts, by protocols, and how much memory."""

from .measuring import measure_latency as measure_latency
from .memory import measure_memory as measure_memory
from .parts import EndToEnd as EndToEnd
from .parts import measure_end_to_end as measure_end_to_end
from .parts import serve as serve
from .protocols import compare_protocols as compare_protocols
from .targets import latency_of as latency_of
