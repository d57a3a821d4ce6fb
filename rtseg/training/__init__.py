"""Losses, schedules, optimisers, recipes, distillation and the trainer."""

from rtseg.training.config import LossConfig, TrainConfig
from rtseg.training.detail import DetailConfig, DetailGuidance
from rtseg.training.distillation import (
    DistillationConfig, Distiller, build_distiller, cwd_distillation, kl_distillation, load_teacher, mse_distillation,
)
from rtseg.training.logging import read_metrics
from rtseg.training.losses import SegLoss, cross_entropy, focal_loss, ohem_cross_entropy
from rtseg.training.optimizers import build_optimizer, split_heads
from rtseg.training.recipes import list_recipes, load_recipe
from rtseg.training.region_losses import dice_loss, lovasz_loss
from rtseg.training.schedules import ScheduleConfig, learning_rate
from rtseg.training.trainer import EpochRecord, Trainer, TrainResult

__all__ = [
    "DetailConfig", "DetailGuidance", "DistillationConfig", "Distiller", "EpochRecord", "LossConfig", "ScheduleConfig",
    "SegLoss", "TrainConfig", "TrainResult", "Trainer", "build_distiller", "build_optimizer", "cross_entropy",
    "cwd_distillation", "dice_loss", "focal_loss", "kl_distillation", "learning_rate", "list_recipes", "load_recipe",
    "load_teacher", "lovasz_loss", "mse_distillation", "ohem_cross_entropy", "read_metrics", "split_heads",
]
