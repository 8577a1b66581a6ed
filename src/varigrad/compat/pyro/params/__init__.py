"""The parameter store, and the names of modules' parameters in it."""

from varigrad.compat.pyro.params import param_store as param_store
from varigrad.compat.pyro.params.names import module_from_param_with_module_name as module_from_param_with_module_name
from varigrad.compat.pyro.params.names import param_with_module_name as param_with_module_name
from varigrad.compat.pyro.params.names import user_param_name as user_param_name
