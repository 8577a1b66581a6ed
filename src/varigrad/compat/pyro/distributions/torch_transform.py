"""Transforms that are torch modules, under Pyro's module name."""

from varigrad.distributions.flows.base import ComposeTransformModule as ComposeTransformModule
from varigrad.distributions.flows.base import TransformModule as TransformModule
