"""Pyro's older name of `pyroapi`: programs choose their backend, and every name means varigrad."""

import torch

from varigrad.compat.pyro.pyroapi import distributions as distributions
from varigrad.compat.pyro.pyroapi import infer as infer
from varigrad.compat.pyro.pyroapi import optim as optim
from varigrad.compat.pyro.pyroapi import pyro as pyro
from varigrad.compat.pyro.pyroapi import pyro_backend as pyro_backend

ops = torch
