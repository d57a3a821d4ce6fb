"""Losses, schedules, distillation and the trainer."""
