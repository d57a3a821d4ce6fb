"""Networks made smaller: what hangs together, which kernels matter, plans, steps, and the files that keep the result."""

from .couplings import Coupling as Coupling
from .trials import find_couplings as find_couplings
from .importance import CRITERIA as CRITERIA
from .importance import channel_scores as channel_scores
from .importance import kernel_norms as kernel_norms
from .importance import taylor_scores as taylor_scores
from .planning import PlannedCut as PlannedCut
from .planning import PruningPlan as PruningPlan
from .planning import apply as apply
from .planning import plan as plan
from .pruning import PruneResult as PruneResult
from .pruning import PruneStep as PruneStep
from .pruning import prune as prune
from .pruning import prune_steps as prune_steps
from .saving import PrunedRecord as PrunedRecord
from .saving import drop_aux as drop_aux
from .saving import load_pruned as load_pruned
from .saving import save_pruned as save_pruned
from .schedule import CompressConfig as CompressConfig
from .schedule import CompressResult as CompressResult
from .schedule import compress as compress
