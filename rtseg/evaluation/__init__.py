"""Metrics, ways of asking a network, the evaluator, predictions and submission files."""

from rtseg.evaluation.boundary import BoundaryMeter, boundary_iou
from rtseg.evaluation.evaluator import Trained, evaluate, load_trained, save_trained
from rtseg.evaluation.inference import Inference, class_scores, predict_ids
from rtseg.evaluation.metrics import (ConfusionMeter, cityscapes_categories, class_iou, join_classes, mean_iou,
                                      pixel_accuracy, report_table)
from rtseg.evaluation.prediction import Prediction, overlay, predict, write_submission
from rtseg.evaluation.video import read_frames, video_facts, write_video

__all__ = ["BoundaryMeter", "ConfusionMeter", "Inference", "Prediction", "Trained", "boundary_iou", "cityscapes_categories", "class_iou",
           "class_scores", "evaluate", "join_classes", "load_trained", "mean_iou", "overlay", "pixel_accuracy", "predict", "predict_ids",
           "read_frames", "report_table", "save_trained", "video_facts", "write_submission", "write_video"]
