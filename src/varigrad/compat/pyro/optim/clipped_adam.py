"""`ClippedAdam`: Adam with clipped gradients and a decaying learning rate."""

from varigrad.optim.clipped_adam import ClippedAdam as ClippedAdam
