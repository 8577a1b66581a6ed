"""Inference: `SVI`, its runs and their state, predictions, and measurements of gradient noise."""
