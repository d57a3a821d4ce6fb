"""Metrics, the evaluator, predictions and submission files."""

from rtseg.evaluation.evaluator import Trained, evaluate, load_trained, predict_ids, save_trained
from rtseg.evaluation.metrics import ConfusionMeter, class_iou, mean_iou, pixel_accuracy, report_table
from rtseg.evaluation.prediction import Prediction, overlay, predict, write_submission

__all__ = ["ConfusionMeter", "Prediction", "Trained", "class_iou", "evaluate", "load_trained", "mean_iou", "overlay", "pixel_accuracy",
           "predict", "predict_ids", "report_table", "save_trained", "write_submission"]
