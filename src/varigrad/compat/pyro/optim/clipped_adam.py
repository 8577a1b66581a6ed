"""Adam with clipped gradients and a decaying learning rate."""

from varigrad.inference.clipped_adam import ClippedAdam as ClippedAdam
