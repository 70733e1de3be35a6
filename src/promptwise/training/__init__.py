"""Training a model on a task's data with transformers' Trainer."""
