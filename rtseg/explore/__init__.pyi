"""Explorers: figures with controls, each one call in a notebook."""

from .architecture_explorer import explore_architecture as explore_architecture
from .architecture_explorer import explore_pair as explore_pair
from .front_explorer import explore_front as explore_front
from .latency_explorer import explore_latency as explore_latency
from .mask_viewer import explore_masks as explore_masks
from .run_browser import explore_runs as explore_runs
from .run_explorers import explore_run as explore_run
from .search_replay import explore_search as explore_search
from .zoo_explorer import explore_zoo as explore_zoo
