"""What varigrad relies on in torch's private names: an upgrade that changes one of them fails here, by name."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.overrides import TorchFunctionMode

import varigrad._torch_internals as internals

SOURCE = Path(internals.__file__).parent
aten = torch.ops.aten


def pair():
    """Two tensors of different shapes, one of them a transposed view and the other expanded."""
    return [torch.arange(6.0).reshape(2, 3).T - 2.5, torch.tensor(1.5).expand(4)]


def fresh():
    return [t.clone() for t in pair()]


# Operations on lists of tensors.


def test_foreach_add_adds_weight_decay_out_of_place():
    grads, params = fresh(), pair()
    found = internals.foreach_add(grads, params, alpha=0.5)
    for g, p, before, result in zip(grads, params, pair(), found, strict=True):
        assert torch.equal(result, g + 0.5 * p) and torch.equal(g, before)


def test_foreach_add__counts_steps_in_place():
    counts = [torch.tensor(3.0), torch.tensor(8.0)]
    internals.foreach_add_(counts, 1)
    assert [c.item() for c in counts] == [4.0, 9.0]


def test_foreach_addcdiv__updates_each_parameter_by_a_size_of_its_own():
    params, first, roots = fresh(), fresh(), [t.abs() + 1 for t in pair()]
    expected = [p + s * m / r for p, m, r, s in zip(pair(), first, roots, (-0.1, -0.2), strict=True)]
    internals.foreach_addcdiv_(params, first, roots, [-0.1, -0.2])
    assert all(map(torch.allclose, params, expected))


def test_foreach_addcmul__adds_weighted_squares_in_place():
    second, grads = fresh(), fresh()
    expected = [v + 0.001 * g * g for v, g in zip(pair(), grads, strict=True)]
    internals.foreach_addcmul_(second, grads, grads, 0.001)
    assert all(map(torch.allclose, second, expected))


def test_foreach_clamp_min_clips_from_below_into_new_tensors():
    grads = fresh()
    found = internals.foreach_clamp_min(grads, -1.0)
    assert all(torch.equal(f, t.clamp(min=-1.0)) for f, t in zip(found, pair(), strict=True))
    assert all(map(torch.equal, grads, pair())), "gradients may be held by others"


def test_foreach_clamp_max__clips_from_above_in_place():
    grads = fresh()
    internals.foreach_clamp_max_(grads, 1.0)
    assert all(torch.equal(f, t.clamp(max=1.0)) for f, t in zip(grads, pair(), strict=True))


def test_foreach_lerp__moves_the_first_moment_towards_the_gradient():
    first, grads = fresh(), [t + 1 for t in pair()]
    expected = [m + 0.1 * (g - m) for m, g in zip(pair(), grads, strict=True)]
    internals.foreach_lerp_(first, grads, 0.1)
    assert all(map(torch.allclose, first, expected))


def test_foreach_mul__decays_in_place():
    second = fresh()
    internals.foreach_mul_(second, 0.9)
    assert all(map(torch.equal, second, [t * 0.9 for t in pair()]))


def test_foreach_neg_makes_new_tensors_without_gaps():
    given = [*pair(), torch.arange(8.0)[::2]]
    same = given[0]
    found = internals.foreach_neg([*given, same])
    assert all(map(torch.equal, found, [-t for t in [*given, same]]))
    memory = {f.untyped_storage().data_ptr() for f in found}
    assert len(memory) == 4 and not memory & {t.untyped_storage().data_ptr() for t in given}
    assert all(f.untyped_storage().nbytes() == f.numel() * f.element_size() for f in found)


def test_foreach_norm_is_euclidean_for_each_tensor():
    found = internals.foreach_norm(pair())
    assert all(f.shape == () for f in found)
    assert all(map(torch.allclose, found, [t.square().sum().sqrt() for t in pair()]))


def test_foreach_sqrt_takes_roots_into_new_tensors():
    second = [t.square() for t in pair()]
    before = copy.deepcopy(second)
    assert all(map(torch.equal, internals.foreach_sqrt(second), [t.sqrt() for t in before]))
    assert all(map(torch.equal, second, before))


def test_foreach_sub_takes_deviations():
    assert all(map(torch.equal, internals.foreach_sub(pair(), [t / 2 for t in pair()]), [t - t / 2 for t in pair()]))


def test_fused_adam__is_one_step_of_adam_in_place():
    p, g, m, v = (torch.tensor(numbers) for numbers in ([1.0, -2.0], [0.3, 0.1], [0.2, 0.4], [0.5, 0.1]))
    first, second = m + 0.1 * (g - m), 0.99 * v + 0.01 * g * g
    root = (second / (1 - 0.99**3)).sqrt() + 1e-8
    expected = p - 0.05 * first / (1 - 0.9**3) / root
    internals.fused_adam_(
        [p], [g], [m], [v], [], [torch.tensor(3.0)],
        lr=0.05, beta1=0.9, beta2=0.99, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    for found, wanted in ((p, expected), (m, first), (v, second), (g, torch.tensor([0.3, 0.1]))):
        assert torch.allclose(found, wanted, rtol=1e-6)


# Draws and their derivatives.


def test_standard_gamma_draws_by_the_generator_that_it_is_given():
    generator = torch.Generator().manual_seed(1)
    alpha = torch.full((4000,), 2.5, dtype=torch.float64)
    untouched = torch.get_rng_state()
    draws = internals.standard_gamma(alpha, generator=generator)
    assert torch.equal(torch.get_rng_state(), untouched)
    assert torch.equal(draws, internals.standard_gamma(alpha, generator=torch.Generator().manual_seed(1)))
    assert abs(draws.mean() - 2.5) < 0.15 and abs(draws.var() - 2.5) < 0.4


def test_standard_gamma_grad_keeps_the_quantile():
    alpha, value, step = torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64), 1e-5

    def lower(a):
        return torch.special.gammainc(a, value)

    density = td.Gamma(alpha, torch.ones_like(alpha)).log_prob(value).exp()
    expected = -(lower(alpha + step) - lower(alpha - step)) / (2 * step) / density
    assert torch.allclose(internals.standard_gamma_grad(alpha, value), expected, rtol=1e-3)


def test_sample_dirichlet_draws_by_the_generator_that_it_is_given():
    alpha = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).expand(4000, 3)
    untouched = torch.get_rng_state()
    draws = internals.sample_dirichlet(alpha, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), untouched)
    assert torch.equal(draws, internals.sample_dirichlet(alpha, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(draws.sum(-1), torch.ones(4000, dtype=torch.float64))
    assert torch.allclose(draws.mean(0), alpha[0] / 8, atol=0.02)


# Operators and schemas.


def test_FunctionSchema_and_Argument_tell_what_is_written():
    (schema,) = (s for s in internals.schemas_by_name("aten::add") if s.overload_name == "out")
    assert isinstance(schema, internals.FunctionSchema) and isinstance(schema.arguments[0], internals.Argument)
    assert schema.name == "aten::add" and schema.is_mutable and len(schema.returns) == 1
    given = {a.name: a for a in schema.arguments}
    assert list(given) == ["self", "other", "alpha", "out"]
    assert given["out"].is_out and given["out"].kwarg_only and given["out"].alias_info.is_write
    assert given["self"].alias_info is None and not given["self"].is_out and not given["self"].kwarg_only
    assert given["alpha"].default_value == 1 and str(given["alpha"].type) == "number"
    assert str(given["self"].type) == "Tensor" and str(schema.returns[0].type) == "Tensor"


def test_FunctionSchema_tells_views_from_copies():
    def returns(overload):
        return internals.schema_of_operator(overload).returns[0].alias_info

    assert returns(aten.add.Tensor) is None
    assert returns(aten.view.default) is not None and not returns(aten.view.default).is_write


def test_schemas_by_name_knows_every_overload_and_nothing_else():
    assert {"Tensor", "Scalar", "out"} <= {s.overload_name for s in internals.schemas_by_name("aten::add")}
    assert internals.schemas_by_name("aten::of_no_release") == []


def test_schema_of_operator_is_that_of_the_overload():
    schema = internals.schema_of_operator(aten.mul.Tensor)
    assert (schema.name, schema.overload_name, schema.is_mutable) == ("aten::mul", "Tensor", False)
    assert internals.schema_of_operator(aten.mul_.Tensor).is_mutable


def test_schema_or_none_knows_nodes_that_call_an_operator():
    assert internals.schema_or_none(aten.mul.Tensor).name == "aten::mul"
    assert internals.schema_or_none("output") is None and internals.schema_or_none(torch.mul) is None


def test_names_of_overloads_and_packets():
    assert internals.name_of_overload(aten.mul.Tensor) == "mul" and aten.mul.Tensor.namespace == "aten"
    assert internals.name_of_packet(aten.mul) == "aten::mul"
    assert str(aten.mul.Tensor.name()) == "aten::mul.Tensor" and aten.mul.Tensor.overloadpacket is aten.mul


def test_OpOverload_and_OpOverloadPacket_are_what_torch_ops_gives():
    assert isinstance(aten.mul.Tensor, internals.OpOverload)
    assert isinstance(aten.mul, internals.OpOverloadPacket)
    assert not isinstance(aten.mul, internals.OpOverload)


def test_can_decompose_says_whether_decompose_works():
    x = torch.randn(2, 3)
    assert internals.can_decompose(aten.linear.default)
    assert torch.allclose(aten.linear.default.decompose(x, x), x @ x.T)
    assert not internals.can_decompose(aten.mul.Tensor)


def test_local_scalar_dense_is_what_a_look_at_a_value_becomes():
    def seen(look):
        with Seen() as mode:
            look(torch.tensor(2.0))
        return mode.names

    overload = internals.local_scalar_dense.default
    for look in (float, bool, Tensor.item, lambda t: [1, 2, 3][int(t)]):
        assert overload in seen(look), look


def test_efficientzerotensor_is_zero():
    found = internals.efficientzerotensor([2, 3], dtype=torch.float64)
    assert found.shape == (2, 3) and found.dtype == torch.float64 and not (found + 0).any()


def test_linalg_check_errors_reads_info_and_raises():
    bad = -torch.eye(2)
    with Seen() as mode, pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(bad)
    assert internals.linalg_check_errors.default in mode.names
    first = internals.schema_of_operator(internals.linalg_check_errors.default).arguments[0]
    assert first.name == "info"
    internals.linalg_check_errors(torch.zeros((), dtype=torch.int32), "linalg.cholesky", is_matrix=True)


def test_fused_sdp_choice_reads_no_values():
    q = torch.randn(1, 1, 4, 8)
    with Seen() as mode:
        choice = internals.fused_sdp_choice(q, q, q)
    assert isinstance(choice, int)
    assert mode.names == [internals.fused_sdp_choice.default]


def test_has_same_storage_numel_compares_sizes():
    assert internals.has_same_storage_numel(torch.zeros(4), torch.ones(4)[:2])
    assert not internals.has_same_storage_numel(torch.zeros(4), torch.zeros(5))


def test_PYTHON_METHODS_is_where_methods_in_python_are():
    assert Tensor.split.__module__ == internals.PYTHON_METHODS == Tensor.__rpow__.__module__


# What is in force while an operation runs.


class Seen(internals.TorchDispatchMode):
    """Notes the operators that reach the dispatcher."""

    def __init__(self):
        super().__init__()
        self.names = []

    @classmethod
    def _should_skip_dynamo(cls):
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func)
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Notes the functions that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func)
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    """Counts calls of both of its hooks."""

    functions = dispatched = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Marked.functions += 1
        with internals.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        Marked.dispatched += 1
        with internals.DisableTorchDispatch(), internals.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def calls_of_hooks(work):
    Marked.functions = Marked.dispatched = 0
    work()
    return Marked.functions, Marked.dispatched


def marked():
    return torch.ones(2).as_subclass(Marked)


def test_TorchDispatchMode_sees_operators_also_those_of_a_backward_pass():
    leaf = torch.ones(2, requires_grad=True)
    with Seen() as mode:
        (leaf * 3).sum().backward()
    assert aten.mul.Tensor in mode.names and len([n for n in mode.names if n is aten.mul.Tensor]) == 2


def test_TorchDispatchMode_asks_should_skip_dynamo_not_to_import_the_compiler():
    """Without an answer of False, torch 2.10 and later wrap the mode by the compiler, which costs 0.6 s once."""
    code = (
        "import sys, torch\n"
        "from varigrad._torch_internals import TorchDispatchMode\n"
        "class Mode(TorchDispatchMode):\n"
        "    @classmethod\n"
        "    def _should_skip_dynamo(cls): return False\n"
        "    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return func(*args, **(kwargs or {}))\n"
        "with Mode(): torch.ones(2) + 1\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_DisableTorchFunctionSubclass_leaves_dispatch_and_function_modes_on():
    tensor = marked()

    def work():
        with Functions() as mode, internals.DisableTorchFunctionSubclass():
            tensor * 2
        assert mode.names == [Tensor.mul]

    assert calls_of_hooks(work) == (0, 1)


def test_DisableTorchFunction_turns_function_modes_off_as_well():
    tensor = marked()

    def work():
        with Functions() as mode, internals.DisableTorchFunction():
            tensor * 2
        assert mode.names == []

    assert calls_of_hooks(work) == (0, 1)


def test_DisableTorchDispatch_leaves_the_class_of_results_to_torch_function():
    tensor = marked()

    def work():
        with internals.DisableTorchDispatch(), internals.DisableTorchFunctionSubclass():
            assert type(tensor * 2) is Tensor

    assert calls_of_hooks(work) == (0, 0)


def test_disable_current_modes_hides_operators_from_all_modes():
    with Seen() as outer, Seen() as inner:
        with internals.disable_current_modes():
            torch.ones(2) + 1
            assert internals.dispatch_modes() == 0
        assert internals.dispatch_modes() == 2
    assert outer.names == inner.names == []


def test_dispatch_mode_stack_lists_the_outermost_first():
    with Seen() as outer, Seen() as inner:
        assert internals.dispatch_mode_stack() == [outer, inner]
    assert internals.dispatch_mode_stack() == []


def test_dispatch_modes_counts_dispatch_modes_only():
    before = internals.dispatch_modes(), internals.function_modes()
    with Seen(), Functions():
        assert internals.dispatch_modes() == before[0] + 1
    assert (internals.dispatch_modes(), internals.function_modes()) == before


def test_function_modes_counts_function_modes_only():
    before = internals.function_modes()
    with Functions(), Functions(), Seen():
        assert internals.function_modes() == before + 2


def test_innermost_transform_is_there_inside_vmap_and_grad():
    seen = []

    def note(x):
        seen.append(internals.innermost_transform() is not None)
        return x.sum()

    torch.func.vmap(note)(torch.ones(2, 3))
    torch.func.grad(note)(torch.ones(3))
    assert seen == [True, True] and internals.innermost_transform() is None


def test_saved_hooks_gives_the_pair_in_force():
    def pack(tensor):
        return tensor

    def unpack(tensor):
        return tensor

    assert internals.saved_hooks(True) is None
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        assert tuple(internals.saved_hooks(True)) == (pack, unpack)
    with torch.autograd.graph.save_on_cpu():
        assert all(h.__module__.startswith("torch.") for h in internals.saved_hooks(True))


# Autograd, versions and memory.


def test_next_sequence_number_counts_differentiable_operations():
    leaf = torch.ones(2, requires_grad=True)
    before = internals.next_sequence_number()
    leaf.detach() * 2
    assert internals.next_sequence_number() == before
    (leaf * 2).sum()
    assert internals.next_sequence_number() == before + 2


def test_sequence_number_of_a_node_is_the_one_that_was_next():
    leaf = torch.ones(2, requires_grad=True)
    expected = internals.next_sequence_number()
    assert internals.sequence_number_of((leaf * 2).grad_fn) == expected
    assert internals.sequence_number_of((leaf * 2).grad_fn) == expected + 1


def test_version_of_counts_writes_through_any_view():
    tensor = torch.zeros(4)
    view, other = tensor[:2], tensor.detach()
    assert internals.version_of(tensor) == 0
    view.add_(1)
    other.mul_(2)
    assert internals.version_of(tensor) == internals.version_of(view) == internals.version_of(other) == 2
    tensor.data.add_(1)
    assert internals.version_of(tensor) == 2, "torch does not count writes through `.data`"
    with torch.inference_mode():
        uncounted = torch.zeros(2)
    with pytest.raises(RuntimeError, match="version"):
        internals.version_of(uncounted)


def test_hooks_of_and_set_hooks_switch_hooks_of_leaves_off_and_on():
    leaf = torch.ones(2, requires_grad=True)
    assert internals.hooks_of(leaf) is None
    called = []
    leaf.register_hook(lambda g: called.append("first"))
    leaf.register_hook(lambda g: called.append("second"))
    hooks = internals.hooks_of(leaf)
    assert [hook(leaf) for hook in hooks.values()] == [None, None] and called == ["first", "second"]
    called.clear()
    internals.set_hooks(leaf, None)
    torch.autograd.grad((leaf * 2).sum(), leaf)
    assert called == []
    internals.set_hooks(leaf, hooks)
    torch.autograd.grad((leaf * 2).sum(), leaf)
    assert called == ["first", "second"]


def test_identity_of_storage_is_shared_by_views_and_by_nothing_else():
    tensor, other = torch.zeros(4), torch.zeros(4)
    storages = [t.untyped_storage() for t in (tensor, tensor[1:], tensor.detach(), other)]
    numbers = [internals.identity_of_storage(s) for s in storages]
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    empty = [internals.identity_of_storage(torch.empty(0).untyped_storage()) for _ in range(1)]
    assert isinstance(empty[0], int)


def test_holders_of_counts_tensors_and_one_handle():
    parameter = nn.Parameter(torch.zeros(4))
    storage = parameter.untyped_storage()
    alone = internals.holders_of(storage)
    assert alone == 2
    view = parameter.detach()
    assert internals.holders_of(storage) == alone + 1
    del view
    assert internals.holders_of(storage) == alone


# Modules and optimisers.


@pytest.mark.parametrize(
    "layer", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout]
)
def test_DropoutNd_is_the_class_of_every_dropout_layer(layer):
    assert isinstance(layer(0.25), internals.DropoutNd) and layer(0.25).p == 0.25


def test_own_parameters_is_what_a_module_reads():
    module = nn.Linear(2, 1)
    assert list(internals.own_parameters(module)) == ["weight", "bias"]
    internals.own_parameters(module)["a.name like this"] = nn.Parameter(torch.ones(()))
    assert "a.name like this" in dict(module.named_parameters())
    replaced = internals.own_parameters(module)["weight"] = nn.Parameter(torch.zeros(1, 2))
    assert module.weight is replaced
    assert not internals.own_parameters(nn.Sequential(nn.Linear(2, 1)))


def test_own_buffers_is_what_a_module_reads():
    module = nn.BatchNorm1d(2)
    assert list(internals.own_buffers(module)) == ["running_mean", "running_var", "num_batches_tracked"]
    replaced = internals.own_buffers(module)["running_mean"] = torch.ones(2)
    assert module.running_mean is replaced


def test_own_modules_is_what_a_module_reads():
    inner, module = nn.Linear(2, 1), nn.Module()
    internals.own_modules(module)["forward"] = inner
    assert dict(module.named_children()) == {"forward": inner}


def test_has_step_hooks_sees_both_kinds():
    for register in ("register_step_pre_hook", "register_step_post_hook"):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        assert not internals.has_step_hooks(optimizer)
        handle = getattr(optimizer, register)(lambda *_: None)
        assert internals.has_step_hooks(optimizer)
        handle.remove()
        assert not internals.has_step_hooks(optimizer)


# Distributions.


@pytest.fixture
def unvalidated():
    td.Distribution.set_default_validate_args(False)
    yield
    td.Distribution.set_default_validate_args(True)


def test_validates_arguments_follows_what_was_given():
    assert internals.validates_arguments(td.Distribution) is True
    assert internals.validates_arguments(td.Normal(0.0, 1.0))
    assert not internals.validates_arguments(td.Normal(0.0, 1.0, validate_args=False))


def test_validates_arguments_follows_the_default(unvalidated):
    assert internals.validates_arguments(td.Distribution) is False
    assert not internals.validates_arguments(td.Normal(0.0, 1.0))
    assert internals.validates_arguments(td.Normal(0.0, 1.0, validate_args=True))


def test_has_own_validation_knows_what_was_given():
    assert internals.has_own_validation(td.Normal(0.0, 1.0, validate_args=False))
    assert not internals.has_own_validation(td.Normal(0.0, 1.0))


def test_dirichlet_of_beta_has_a_betas_value_first():
    inner = internals.dirichlet_of_beta(td.Beta(torch.tensor(2.0), torch.tensor(5.0)))
    assert isinstance(inner, td.Dirichlet) and inner.concentration.tolist() == [2.0, 5.0]


def test_unbroadcasted_scale_tril_is_the_cholesky_factor():
    precision = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    normal = td.MultivariateNormal(torch.zeros(3, 2), precision_matrix=precision)
    factor = internals.unbroadcasted_scale_tril(normal)
    assert factor.shape == (2, 2) and torch.allclose(factor @ factor.mT, precision.inverse(), atol=1e-6)
    assert not factor.triu(1).any()


def test_bartlett_sample_has_the_mean_of_a_wishart():
    scale = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    draws = internals.bartlett_sample(td.Wishart(torch.tensor(5.0), covariance_matrix=scale), torch.Size([20000]))
    assert draws.shape == (20000, 2, 2) and torch.allclose(draws.mean(0), 5 * scale, atol=0.3)


# What classes of ours inherit.

INHERITED = {
    nn.Module: "_parameters _buffers _modules _load_from_state_dict _save_to_state_dict",
    td.Distribution: "_validate_args _validate_sample _extended_shape _get_checked_instance _batch_shape _event_shape",
    td.Transform: "_call _inverse",
    td.Wishart: "_bartlett_sampling",
    td.Bernoulli: "_param",
}
"""Private names that our own classes use, or override, because torch calls them or has no other way."""


@pytest.mark.parametrize("kind", INHERITED, ids=lambda kind: kind.__name__)
def test_names_that_our_classes_inherit_are_there(kind):
    made = {nn.Module: nn.Module, td.Distribution: lambda: td.Normal(0.0, 1.0), td.Wishart: wishart, td.Bernoulli: coin}
    found = made.get(kind, lambda: kind)()
    missing = [name for name in INHERITED[kind].split() if not hasattr(found, name)]
    assert not missing


def wishart():
    return td.Wishart(torch.tensor(3.0), torch.eye(2))


def coin():
    return td.Bernoulli(0.5)


def test_transforms_are_called_by_call_and_inverse():
    class Twice(td.Transform):
        domain = codomain = td.constraints.real
        bijective = True

        def _call(self, x):
            return 2 * x

        def _inverse(self, y):
            return y / 2

    assert Twice()(torch.tensor(3.0)) == 6 and Twice().inv(torch.tensor(3.0)) == 1.5


def test_distributions_extend_and_check_shapes():
    normal = td.Normal(torch.zeros(3), 1.0)
    assert normal._extended_shape(torch.Size([5])) == (5, 3) and normal._batch_shape == (3,)
    assert normal._event_shape == ()
    assert isinstance(normal._get_checked_instance(td.Normal), td.Normal)
    with pytest.raises(ValueError, match="support"):
        normal._validate_sample(torch.full((3,), torch.nan))


def test_modules_save_and_load_by_the_names_that_ours_override():
    class Noting(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "extra"] = torch.ones(1)

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            self.found = state_dict.pop(prefix + "extra")
            super()._load_from_state_dict(state_dict, prefix, *rest)

    outer = nn.Sequential(Noting(2, 1))
    state = outer.state_dict()
    assert "0.extra" in state
    outer.load_state_dict(state)
    assert torch.equal(outer[0].found, torch.ones(1))


# Trees.

PYTREE = {"TreeSpec", "tree_flatten", "tree_flatten_with_path", "tree_leaves", "tree_map_only", "tree_unflatten"}


def test_pytree_is_used_by_the_names_that_are_tested_here():
    used = {name for path in SOURCE.rglob("*.py") for name in re.findall(r"\bpytree\.(\w+)", path.read_text())}
    assert used == PYTREE


def test_pytree_flattens_containers_in_order():
    tree = ({"b": 1, "a": [2, None]}, torch.Size([3]))
    leaves, form = internals.pytree.tree_flatten(tree)
    assert leaves[:3] == [1, 2, None] and internals.pytree.tree_leaves(tree) == leaves
    assert isinstance(form, internals.pytree.TreeSpec)
    assert internals.pytree.tree_unflatten(leaves, form) == tree
    assert form == internals.pytree.tree_flatten(tree)[1] != internals.pytree.tree_flatten((1, 2))[1]


def test_pytree_forms_are_keys_and_their_text_tells_them_apart():
    trees = [({"a": 1}, [2, 3]), ({"b": 1}, [2, 3]), ({"a": 1}, (2, 3)), ({"a": 1}, [2])]
    forms = [internals.pytree.tree_flatten(tree)[1] for tree in [*trees, *trees]]
    assert len(set(forms)) == len({str(form) for form in forms}) == len(trees)


def test_pytree_maps_one_kind_of_leaf():
    assert internals.pytree.tree_map_only(int, lambda n: n + 1, ([1, "a"], {"k": 2.0})) == ([2, "a"], {"k": 2.0})


def test_pytree_paths_show_where_a_leaf_is():
    paths, _ = internals.pytree.tree_flatten_with_path({"a": [1, 2], "b": (3,)})
    assert [("".join(map(str, path)), leaf) for path, leaf in paths] == [
        ("['a'][0]", 1),
        ("['a'][1]", 2),
        ("['b'][0]", 3),
    ]


# The compiler.


def in_a_process_of_its_own(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_is_dynamo_loaded_and_does_not_load_it():
    in_a_process_of_its_own(
        "import sys, torch, varigrad._torch_internals as internals\n"
        "assert not internals.is_dynamo_loaded() and not internals.has_dynamo_disabled_validation()\n"
        "assert 'torch._dynamo' not in sys.modules and 'torch._inductor.compile_fx' not in sys.modules\n"
        "import torch._dynamo\n"
        "assert internals.is_dynamo_loaded()\n"
    )


def test_has_dynamo_disabled_validation_after_torch_compile():
    in_a_process_of_its_own(
        "import torch, varigrad._torch_internals as internals\n"
        "torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2))\n"
        "assert internals.has_dynamo_disabled_validation()\n"
        "assert not internals.validates_arguments(torch.distributions.Distribution)\n"
    )


AOT = """
import sys, torch, varigrad._torch_internals as internals
graph = torch.fx.Graph()
x = graph.placeholder("x")
graph.output([graph.call_function(torch.ops.aten.mul.Tensor, (x, 3.0))])
module = torch.fx.GraphModule(torch.nn.Module(), graph)
path = internals.aot_compile(module, (torch.zeros(4),), {"aot_inductor.allow_stack_allocation": True})
assert type(path) is str and path.endswith(".so")
runner: internals.AotRunner = internals.aot_runner(path, "cpu")
(found,) = runner.run([torch.arange(4.0)])
assert torch.equal(found, torch.arange(4.0) * 3)
"""


@pytest.mark.timeout(900)  # the first time, torch has its headers compiled
def test_aot_compile_makes_a_library_that_aot_runner_runs():
    """Inductor is given a graph of operators and shapes of inputs; what comes back runs by itself."""
    in_a_process_of_its_own(AOT)
