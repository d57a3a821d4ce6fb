"""Losses, schedules, distillation and the trainer."""

from rtseg.training.config import DistillationConfig, LossConfig, TrainConfig
from rtseg.training.distillation import Distiller, kl_distillation
from rtseg.training.logging import read_metrics
from rtseg.training.losses import SegLoss, cross_entropy, ohem_cross_entropy
from rtseg.training.schedules import ScheduleConfig, learning_rate
from rtseg.training.trainer import EpochRecord, Trainer, TrainResult

__all__ = ["Distiller", "DistillationConfig", "EpochRecord", "LossConfig", "ScheduleConfig", "SegLoss", "TrainConfig", "TrainResult",
           "Trainer", "cross_entropy", "kl_distillation", "learning_rate", "ohem_cross_entropy", "read_metrics"]
