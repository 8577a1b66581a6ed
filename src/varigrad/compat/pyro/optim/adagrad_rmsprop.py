"""`AdagradRMSProp`: the step sizes of automatic differentiation variational inference."""

from varigrad.optim.adagrad_rmsprop import AdagradRMSProp as AdagradRMSProp
