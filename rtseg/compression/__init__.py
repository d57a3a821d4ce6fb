"""Networks made smaller: what hangs together, which kernels matter, plans, steps, and the files that keep the result."""

from rtseg.compression.couplings import Coupling, find_couplings
from rtseg.compression.importance import CRITERIA, channel_scores, kernel_norms, taylor_scores
from rtseg.compression.planning import PlanEntry, PruningPlan, apply, plan
from rtseg.compression.pruning import PruneResult, PruneStep, prune, prune_steps
from rtseg.compression.saving import PrunedRecord, drop_aux, load_pruned, save_pruned
from rtseg.compression.schedule import CompressConfig, CompressResult, compress
from rtseg.compression.surgery import keep_channels, keep_layers

__all__ = ["CRITERIA", "CompressConfig", "CompressResult", "Coupling", "PlanEntry", "PruneResult", "PruneStep", "PrunedRecord", "PruningPlan", "apply", "channel_scores", "compress",
           "drop_aux", "find_couplings", "keep_channels", "keep_layers", "kernel_norms", "load_pruned", "plan", "prune", "prune_steps", "save_pruned",
           "taylor_scores"]
