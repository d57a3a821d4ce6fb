"""Figures: architectures, masks, latency, curves, tables."""

from importlib import import_module

from rtseg.viz.architectures import compare_architectures, plot_architecture
from rtseg.viz.curves import LiveCurves, plot_confusion, plot_iou, plot_training, watch
from rtseg.viz.data import plot_class_shares, plot_presence
from rtseg.viz.figures import image_html, new_figure, plotly_script, render_png, show, to_html
from rtseg.viz.kernels import plot_kernels
from rtseg.viz.latency import plot_agreement, plot_latencies, plot_latency_table
from rtseg.viz.masks import error_map, show_masks
from rtseg.viz.networks import network_numbers, plot_network
from rtseg.viz.predictions import plot_intervals, plot_tables
from rtseg.viz.search import plot_frontier, plot_health, plot_logits
from rtseg.viz.supernets import plot_supernet
from rtseg.viz.tables import Table, table

__all__ = ["LiveCurves", "Table", "compare_architectures", "error_map", "image_html", "network_numbers", "new_figure", "plot_agreement", "plot_architecture", "plot_class_shares", "plot_confusion", "plot_frontier", "plot_health", "plot_intervals", "plot_iou", "plot_kernels", "plot_latencies", "plot_latency_table", "plot_logits", "plot_network", "plot_presence", "plot_supernet", "plot_tables", "plot_training", "plotly_script", "render_png", "show", "show_masks", "table", "to_html", "watch"]


def __getattr__(name: str):
    """The explorers live in `rtseg.explore`; people who know them from here still find them."""
    if name.startswith("explore_"):
        return getattr(import_module("rtseg.explore"), name)
    raise AttributeError(f"module 'rtseg.viz' has no attribute '{name}'")
