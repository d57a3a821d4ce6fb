"""Metrics, ways of asking a network, the evaluator, predictions and submission files."""

from .boundary import BoundaryMeter as BoundaryMeter
from .boundary import boundary_iou as boundary_iou
from .calibration import CalibrationMeter as CalibrationMeter
from .evaluator import Trained as Trained
from .evaluator import evaluate as evaluate
from .evaluator import load_trained as load_trained
from .evaluator import save_trained as save_trained
from .inference import Inference as Inference
from .inference import class_scores as class_scores
from .inference import predict_ids as predict_ids
from .metrics import ConfusionMeter as ConfusionMeter
from .metrics import cityscapes_categories as cityscapes_categories
from .metrics import class_iou as class_iou
from .metrics import join_classes as join_classes
from .metrics import mean_iou as mean_iou
from .metrics import pixel_accuracy as pixel_accuracy
from .metrics import report_table as report_table
from .painting import overlay as overlay
from .prediction import Prediction as Prediction
from .prediction import predict as predict
from .prediction import write_submission as write_submission
from .sequences import SequenceMeter as SequenceMeter
from .sequences import sequence_of as sequence_of
from .video import read_frames as read_frames
from .video import video_facts as video_facts
from .video import write_video as write_video
