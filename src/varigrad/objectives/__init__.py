"""Objectives: the bounds that are maximised, and the estimates of their gradients."""

from varigrad.objectives.bound import BiasWarning as BiasWarning
from varigrad.objectives.bound import Bound as Bound
from varigrad.objectives.checks.rechecks import StaleCheckWarning as StaleCheckWarning
from varigrad.objectives.elbo import ELBO as ELBO
from varigrad.objectives.plan import Plan as Plan
from varigrad.objectives.renyi import Renyi as Renyi
