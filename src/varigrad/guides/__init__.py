"""Automatic guides: modules built from a model."""

from varigrad.guides.base import AutoGuide as AutoGuide
from varigrad.guides.delta import AutoDelta as AutoDelta
from varigrad.guides.normal import AutoNormal as AutoNormal
