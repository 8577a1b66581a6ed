"""All private names of torch that varigrad uses, each with its purpose and the behaviour that varigrad relies on.

Torch guarantees nothing about these names, so an upgrade may rename them or change their behaviour. No other module of
the package uses them (`tests/test_private_names.py`), and `tests/test_torch_internals.py` tests each of them, so that
an incompatible upgrade fails there, by name. Functions of torch are assigned, not wrapped, so that calls cost no more.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
import torch.utils._pytree
from torch import Tensor, fx, nn
from torch import distributions as td
from torch._C._autograd import _get_sequence_nr, _top_saved_tensors_default_hooks
from torch._ops import OpOverload as OpOverload  # one overload of an operator, what dispatch modes are given
from torch._ops import OpOverloadPacket as OpOverloadPacket  # all overloads of one name, as `torch.ops.aten.add`
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import (
    TorchDispatchMode as TorchDispatchMode,  # sees every operation, in C++ or Python
)
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

# Operations on lists of tensors, one call for all parameters; those without an underscore at the end are out of place.

foreach_add = torch._foreach_add
"""`list + alpha * list`, for weight decay."""
foreach_add_ = torch._foreach_add_
"""Adds a number to each tensor in place: counts of steps, epsilon."""
foreach_addcdiv_ = torch._foreach_addcdiv_
"""`p += size * first / second` in place, with a list of sizes: the update of Adam."""
foreach_addcmul_ = torch._foreach_addcmul_
"""`v += weight * g * g` in place: Adam's second moment."""
foreach_clamp_max_ = torch._foreach_clamp_max_
"""Clips in place from above."""
foreach_clamp_min = torch._foreach_clamp_min
"""Clipped from below; the originals stay as they are."""
foreach_lerp_ = torch._foreach_lerp_
"""`m += weight * (g - m)` in place: Adam's first moment."""
foreach_mul_ = torch._foreach_mul_
"""Multiplies by a number in place."""
foreach_neg = torch._foreach_neg
"""Minus each gradient: always new tensors, without gaps, also for views and expanded ones."""
foreach_norm = torch._foreach_norm
"""The Euclidean norm of each tensor, as tensors without dimensions."""
foreach_sqrt = torch._foreach_sqrt
"""The square root of each entry."""
foreach_sub = torch._foreach_sub
"""The differences of two lists."""
fused_adam_ = torch._fused_adam_
"""Adam's step by one kernel, in place, which reads all operands from end to end and the counts as they are."""

# Draws and their derivatives.

standard_gamma = torch._standard_gamma
"""Draws of Gamma(concentration, 1), differentiable by the concentration; takes a generator."""
standard_gamma_grad = torch._standard_gamma_grad
"""The derivative of such a draw by the concentration, at a fixed quantile."""
sample_dirichlet = torch._sample_dirichlet
"""Draws of a Dirichlet; takes a generator."""

# Operators, their schemas, and private operators of `aten`.

FunctionSchema = torch._C.FunctionSchema
"""An operator's schema: `name`, `arguments`, `returns`, `is_mutable`."""
Argument = torch._C.Argument
"""An argument of it: `name`, `type`, `default_value`, `kwarg_only`, `is_out`, and `alias_info` with `is_write`."""
schemas_by_name: Callable[[str], list[FunctionSchema]] = torch._C._jit_get_schemas_for_operator
"""The schemas of all overloads of an operator, by its qualified name; an empty list for an unknown one."""
schema_of_operator: Callable[[OpOverload], FunctionSchema] = operator.attrgetter("_schema")
"""The schema of one overload."""
name_of_overload: Callable[[OpOverload], str] = operator.attrgetter("_opname")
"""The operator's name without namespace and overload."""
name_of_packet: Callable[[OpOverloadPacket], str] = operator.attrgetter("_qualified_op_name")
"""The operator's name as `namespace::name`."""
can_decompose: Callable[[OpOverload], bool] = operator.methodcaller("_can_decompose")
"""Whether `decompose` of an overload gives its result by simpler operations."""
local_scalar_dense: OpOverloadPacket = torch.ops.aten._local_scalar_dense
"""What `item()`, `bool(t)` and the like become: the values of a tensor go to Python."""
efficientzerotensor: OpOverloadPacket = torch.ops.aten._efficientzerotensor
"""Zeros without memory, which autograd makes for gradients."""
linalg_check_errors: OpOverloadPacket = torch.ops.aten._linalg_check_errors
"""Reads the `info` that a decomposition of matrices left behind, its first argument, and raises where it is not 0."""
fused_sdp_choice: OpOverloadPacket = torch.ops.aten._fused_sdp_choice
"""Which kernel attention takes: depends on shapes only."""
has_same_storage_numel: OpOverloadPacket = torch.ops.aten._has_same_storage_numel
"""Whether two storages are of the same size: looks at no values."""
PYTHON_METHODS = "torch._tensor"
"""The module in which methods of tensors that are written in Python are defined."""


def schema_or_none(target: object) -> FunctionSchema | None:
    """The schema of what a node of a graph calls; None if that is no operator of torch's."""
    found: FunctionSchema | None = getattr(target, "_schema", None)
    return found


# What is in force while an operation runs.

DisableTorchFunction = torch._C.DisableTorchFunction
"""A context in which neither `__torch_function__` of subclasses nor function modes are called."""
DisableTorchFunctionSubclass = torch._C.DisableTorchFunctionSubclass
"""A context in which `__torch_function__` of subclasses is not called; function modes still are."""
DisableTorchDispatch = torch._C._DisableTorchDispatch
"""A context in which `__torch_dispatch__` of subclasses is not called."""
disable_current_modes = _disable_current_modes
"""A context in which no dispatch mode is in force."""
dispatch_mode_stack: Callable[[], list[Any]] = _get_current_dispatch_mode_stack
"""The dispatch modes in force, the outermost first."""
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""The number of dispatch modes in force."""
function_modes: Callable[[], int] = torch._C._len_torch_function_stack
"""The number of modes with `__torch_function__` in force."""
innermost_transform: Callable[[], object | None] = torch._C._functorch.peek_interpreter_stack
"""The innermost transform of `torch.func` that is at work, or None."""
saved_hooks: Callable[[bool], tuple[Any, Any] | None] = _top_saved_tensors_default_hooks
"""The pair of hooks in force on tensors that autograd saves, or None; True: also those that tracing ignores."""

# Autograd, versions and memory.

Hook: TypeAlias = Callable[[Tensor], Tensor | None]
"""What `Tensor.register_hook` takes: given the gradient, it returns another one, or None."""
next_sequence_number: Callable[[], int] = _get_sequence_nr
"""The number that autograd gives to its next node: one more for every differentiable operation of this thread."""
sequence_number_of: Callable[[Any], int] = operator.methodcaller("_sequence_nr")
"""The number of a node of autograd's graph."""
version_of: Callable[[Tensor], int] = operator.attrgetter("_version")
"""How often a tensor's memory has been written to; views share the count, tensors of inference mode have none."""
hooks_of: Callable[[Tensor], dict[int, Hook] | None] = operator.attrgetter("_backward_hooks")
"""The hooks of `register_hook` by number, in their order; None where there never was one."""
identity_of_storage: Callable[[torch.UntypedStorage], int] = operator.attrgetter("_cdata")
"""The address of the storage's record in C++: equal for all Python objects of one storage while one of them lives."""


def set_hooks(tensor: Tensor, hooks: dict[int, Hook] | None) -> None:
    """Replace the hooks of a leaf; with None, gradients that autograd computes for it pass through none."""
    tensor._backward_hooks = hooks


def holders_of(storage: torch.UntypedStorage) -> int:
    """The number of those who hold a storage: tensors in C++, and the Python object that is asked."""
    found: int = torch._C._storage_Use_Count(storage._cdata)
    return found


# Modules and optimisers.

DropoutNd = _DropoutNd
"""The common class of all dropout layers, with the probability `p`."""
own_parameters: Callable[[nn.Module], dict[str, nn.Parameter | None]] = operator.attrgetter("_parameters")
"""The parameters of a module itself, by name: the very dictionary, which decides."""
own_buffers: Callable[[nn.Module], dict[str, Tensor | None]] = operator.attrgetter("_buffers")
"""The buffers of a module itself, likewise."""
own_modules: Callable[[nn.Module], dict[str, nn.Module | None]] = operator.attrgetter("_modules")
"""The modules inside a module, likewise."""


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether something of the user's is called before or after the optimiser's steps."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


# Distributions.

validates_arguments: Callable[[td.Distribution | type[td.Distribution]], bool] = operator.attrgetter("_validate_args")
"""Whether a distribution checks its arguments and values; of the class `Distribution`, the default for all."""
dirichlet_of_beta: Callable[[td.Beta], td.Dirichlet] = operator.attrgetter("_dirichlet")
"""The Dirichlet of two categories whose first entry is a Beta's value."""
unbroadcasted_scale_tril: Callable[[td.MultivariateNormal], Tensor] = operator.attrgetter("_unbroadcasted_scale_tril")
"""The Cholesky factor of a multivariate normal's covariance matrix, not expanded to the batch."""


def has_own_validation(distribution: td.Distribution) -> bool:
    """Whether `validate_args=` was given to the distribution itself, and not left to the default."""
    return "_validate_args" in vars(distribution)


def bartlett_sample(wishart: td.Wishart, shape: torch.Size) -> Tensor:
    """One attempt at draws of a Wishart by Bartlett's decomposition, `[*shape, *batch, d, d]`, without torch's test."""
    found: Tensor = wishart._bartlett_sampling(shape)
    return found


# Trees, and the compiler.

pytree = torch.utils._pytree
"""Nested containers as leaves and a form; `tests/test_torch_internals.py` lists what is used of it."""


def is_dynamo_loaded() -> bool:
    """Whether `torch.compile` may have been used in this process; does not import it."""
    return "torch._dynamo" in sys.modules


def has_dynamo_disabled_validation() -> bool:
    """Whether `torch.compile` has been used: it switches the validation of all distributions off, unasked."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and dynamo.TorchPatcher.patch.cache_info().currsize > 0


def aot_compile(module: fx.GraphModule, inputs: tuple[Tensor, ...], options: Mapping[str, object]) -> str:
    """Have Inductor compile a graph ahead of time; returns the path of the library. Imports Inductor, for 2 s."""
    import torch._inductor

    return str(torch._inductor.aot_compile(module, inputs, options=dict(options)))


class AotRunner(Protocol):
    """A loaded library of Inductor's."""

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Compute the graph's results from its inputs."""


def aot_runner(path: str, device: str) -> AotRunner:
    """Load what `aot_compile` has made.

    Args:
        device: "cpu" or "cuda".

    Returns:
        What runs the library, which is unloaded with it; one call at a time.
    """
    runners = torch._C._aoti
    kind = runners.AOTIModelContainerRunnerCuda if device == "cuda" else runners.AOTIModelContainerRunnerCpu
    found: AotRunner = kind(path, 1)
    return found
