"""Pictures of everything the workbench knows: networks, masks, latencies, curves, searches, data."""

from rtseg.viz.architecture_explorer import explore_architecture, explore_pair
from rtseg.viz.architectures import compare_architectures, plot_architecture
from rtseg.viz.curves import LiveCurves, plot_confusion, plot_iou, plot_training, watch
from rtseg.viz.data import plot_class_shares, plot_presence
from rtseg.viz.figures import image_html, new_figure, plotly_script, render_png, show, to_html
from rtseg.viz.kernels import plot_kernels
from rtseg.viz.latency import plot_agreement, plot_latencies, plot_latency_table
from rtseg.viz.latency_explorer import explore_latency
from rtseg.viz.mask_viewer import explore_masks
from rtseg.viz.masks import error_map, show_masks
from rtseg.viz.networks import network_numbers, plot_network
from rtseg.viz.predictions import plot_intervals, plot_tables
from rtseg.viz.run_browser import explore_runs
from rtseg.viz.search import plot_frontier, plot_health, plot_logits
from rtseg.viz.search_replay import explore_search
from rtseg.viz.supernets import plot_supernet
from rtseg.viz.tables import Table, table
from rtseg.viz.zoo_explorer import explore_zoo

__all__ = [
    "LiveCurves", "Table", "compare_architectures", "error_map", "explore_architecture", "explore_latency", "explore_masks", "explore_pair", "explore_runs", "explore_search", "explore_zoo", "image_html", "network_numbers", "new_figure", "plot_agreement",
    "plot_architecture", "plot_class_shares", "plot_confusion", "plot_frontier", "plot_health", "plot_intervals", "plot_iou", "plot_kernels", "plot_latencies",
    "plot_latency_table", "plot_logits", "plot_network", "plot_presence", "plot_supernet", "plot_tables", "plot_training", "plotly_script", "render_png", "show",
    "show_masks", "table", "to_html", "watch",
]
