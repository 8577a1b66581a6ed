"""Pyro's constraints: those of torch, and those of varigrad."""

from varigrad.distributions.constraints import *  # noqa: F403
from varigrad.distributions.constraints import corr_matrix as corr_matrix
from varigrad.distributions.constraints import integer as integer
from varigrad.distributions.constraints import ordered_vector as ordered_vector
from varigrad.distributions.constraints import positive_ordered_vector as positive_ordered_vector
from varigrad.distributions.constraints import softplus_lower_cholesky as softplus_lower_cholesky
from varigrad.distributions.constraints import softplus_positive as softplus_positive
from varigrad.distributions.constraints import sphere as sphere
from varigrad.distributions.constraints import unit_lower_cholesky as unit_lower_cholesky
