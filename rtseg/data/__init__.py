"""Label sets, data sets, drawn street scenes, caches, augmentation, balanced sampling, loading, and the data check."""

from rtseg.core.values import LabelSet
from rtseg.data.augmentation import (
    Augmentation, Augmenter, augmentation_preset, augmentation_source, build_augmentation, list_augmentation_presets,
)
from rtseg.data.cache import DiskCache
from rtseg.data.checks import DataReport, SplitStats, check_dataset
from rtseg.data.datasets import Sample, SegDataset, open_dataset
from rtseg.data.labels import BDD100K, CAMVID, CITYSCAPES, get_labels, train_id_labels
from rtseg.data.loading import MEAN, STD, Batch, Loader, make_loader, normalize
from rtseg.data.prepare import PrepareReport, prepare_cityscapes
from rtseg.data.sampling import class_counts, class_weights, sampling_probabilities
from rtseg.data.scenes import draw_scene, make_scenes

__all__ = [
    "BDD100K", "CAMVID", "CITYSCAPES", "MEAN", "STD", "Augmentation", "Augmenter", "Batch", "DataReport", "DiskCache", "LabelSet", "Loader",
    "PrepareReport", "Sample", "SegDataset", "SplitStats", "augmentation_preset", "augmentation_source", "build_augmentation", "check_dataset",
    "class_counts", "class_weights", "draw_scene", "get_labels", "list_augmentation_presets", "make_loader", "make_scenes", "normalize",
    "open_dataset", "prepare_cityscapes", "sampling_probabilities", "train_id_labels",
]
