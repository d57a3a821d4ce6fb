"""Metrics, the evaluator, predictions and submission files."""
