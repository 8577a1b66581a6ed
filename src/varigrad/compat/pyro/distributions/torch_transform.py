"""Transforms that are modules."""

from varigrad.distributions.flows.base import ComposeTransformModule as ComposeTransformModule
from varigrad.distributions.flows.base import TransformModule as TransformModule
