"""Autoregressive networks, under Pyro's names."""

from varigrad.distributions.flows.networks import AutoRegressiveNN as AutoRegressiveNN
from varigrad.distributions.flows.networks import ConditionalAutoRegressiveNN as ConditionalAutoRegressiveNN
from varigrad.distributions.flows.networks import MaskedLinear as MaskedLinear
from varigrad.distributions.flows.networks import create_mask as create_mask
