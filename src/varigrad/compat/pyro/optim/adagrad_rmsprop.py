"""The step sizes of automatic differentiation variational inference."""

from varigrad.inference.advi import AdagradRMSProp as AdagradRMSProp
