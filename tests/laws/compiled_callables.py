"""A compiled callable is followed; a file of its own, for it loads the compiler and comes last."""

import torch

from laws.base import law
from laws.dependencies import double, leak_law


@law
def a_compiled_callable_is_followed():  # last: it loads the compiler
    leak_law(torch.compile(double, backend="eager"))()
