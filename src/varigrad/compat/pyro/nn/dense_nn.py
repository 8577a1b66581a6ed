"""Dense networks, under Pyro's names."""

from varigrad.distributions.flows.networks import ConditionalDenseNN as ConditionalDenseNN
from varigrad.distributions.flows.networks import DenseNN as DenseNN
