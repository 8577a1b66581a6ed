"""Names of modules' parameters in the store: `module$$$parameter`."""

from __future__ import annotations

_BETWEEN = "$$$"


def param_with_module_name(pyro_name: str, param_name: str) -> str:
    """The store's name of a module's parameter, `module$$$parameter`."""
    return f"{pyro_name}{_BETWEEN}{param_name}"


def module_from_param_with_module_name(param_name: str) -> str:
    """The module's part of such a name."""
    return param_name.split(_BETWEEN)[0]


def user_param_name(param_name: str) -> str:
    """The parameter's part of such a name; a name without a module is returned whole."""
    return param_name.split(_BETWEEN, 1)[-1]
