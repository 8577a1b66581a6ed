"""Dense networks, by Pyro's names for them."""

from varigrad.distributions.flows.networks import ConditionalDenseNN as ConditionalDenseNN
from varigrad.distributions.flows.networks import DenseNN as DenseNN
