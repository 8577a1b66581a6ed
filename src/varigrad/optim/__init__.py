"""Optimisers as configuration, and the updates of torch's optimisers as functions."""

from varigrad.optim.config import SGD as SGD
from varigrad.optim.config import Adam as Adam
from varigrad.optim.config import Optimizer as Optimizer
