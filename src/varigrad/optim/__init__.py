"""Optimisers: configurations of torch's optimisers, and their updates as pure functions."""

from varigrad.optim.config import SGD as SGD
from varigrad.optim.config import Adam as Adam
from varigrad.optim.config import Optimizer as Optimizer
