"""Closed-form KL divergences, under Pyro's module name."""

from torch.distributions import kl_divergence as kl_divergence
from torch.distributions import register_kl as register_kl
