"""Explorers: figures with controls, each one call in a notebook."""

from rtseg.explore.architecture_explorer import explore_architecture, explore_pair
from rtseg.explore.latency_explorer import explore_latency
from rtseg.explore.mask_viewer import explore_masks
from rtseg.explore.run_browser import explore_runs
from rtseg.explore.search_replay import explore_search
from rtseg.explore.zoo_explorer import explore_zoo

__all__ = ["explore_architecture", "explore_latency", "explore_masks", "explore_pair", "explore_runs", "explore_search", "explore_zoo"]
