"""Losses, schedules, optimisers, recipes, distillation and the trainer."""

from rtseg.training.config import LossConfig, TrainConfig
from rtseg.training.detail import DetailConfig
from rtseg.training.distillation import DistillationConfig, Distiller, kl_distillation
from rtseg.training.logging import read_metrics
from rtseg.training.losses import SegLoss, cross_entropy, focal_loss, ohem_cross_entropy
from rtseg.training.optimizers import build_optimizer, split_heads
from rtseg.training.recipes import list_recipes, load_recipe
from rtseg.training.region_losses import dice_loss, lovasz_loss
from rtseg.training.schedules import ScheduleConfig, learning_rate
from rtseg.training.trainer import EpochRecord, Trainer, TrainResult

__all__ = ["DetailConfig", "Distiller", "DistillationConfig", "EpochRecord", "LossConfig", "ScheduleConfig", "SegLoss", "TrainConfig", "TrainResult",
           "Trainer", "build_optimizer", "cross_entropy", "dice_loss", "focal_loss", "kl_distillation", "learning_rate", "list_recipes",
           "load_recipe", "lovasz_loss", "ohem_cross_entropy", "read_metrics", "split_heads"]
