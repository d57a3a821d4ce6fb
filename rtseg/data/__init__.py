"""Label sets, data sets, drawn street scenes, augmentation, loading, and the data check."""

from rtseg.core.values import LabelSet
from rtseg.data.augmentation import Augmentation, Augmenter, build_augmentation
from rtseg.data.checks import DataReport, SplitStats, check_dataset
from rtseg.data.datasets import Sample, SegDataset, open_dataset
from rtseg.data.labels import BDD100K, CAMVID, CITYSCAPES, get_labels, train_id_labels
from rtseg.data.loading import MEAN, STD, Batch, Loader, make_loader, normalize
from rtseg.data.prepare import PrepareReport, prepare_cityscapes
from rtseg.data.scenes import draw_scene, make_scenes

__all__ = [
    "BDD100K", "CAMVID", "CITYSCAPES", "MEAN", "STD", "Augmentation", "Augmenter", "Batch", "DataReport", "LabelSet", "Loader", "PrepareReport", "Sample",
    "SegDataset", "SplitStats", "build_augmentation", "check_dataset", "draw_scene", "get_labels", "make_loader", "make_scenes", "normalize", "open_dataset",
    "prepare_cityscapes", "train_id_labels",
]
