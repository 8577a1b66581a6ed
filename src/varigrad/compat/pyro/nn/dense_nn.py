"""Dense networks."""

from varigrad.distributions.flows.networks import ConditionalDenseNN as ConditionalDenseNN
from varigrad.distributions.flows.networks import DenseNN as DenseNN
