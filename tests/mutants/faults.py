# ruff: noqa: E501 - one mutant a line
"""What a program reaches, what is counted, what things are called, and what is predicted."""

from mutants import M

LEAVES = "test_leaves.py"

MUTANTS = (
    # Leaves that nobody trains.
    M(
        "leaves are not looked at by a run",
        "inference/descent.py",
        "        self._foreign.look(result.surrogate, args, kwargs)\n",
        "",
        f"{LEAVES}::test_what_is_reached_and_not_declared_is_refused_by_name[in_closure-False]",
    ),
    M(
        "leaves are not looked at by compiled gradients",
        "inference/compiled.py",
        "        self.look(result.surrogate, args, kwargs)\n",
        "",
        f"{LEAVES}::test_compiled_gradients_do_not_leave_a_network_out_in_silence",
    ),
    M(
        "only leaves next to the loss are found",
        "inference/leaves.py",
        "stack.append(following)",
        "pass",
        f"{LEAVES}::test_leaves_of_a_graph",
    ),
    M(
        "only the first step is looked at",
        "inference/leaves.py",
        "            self._sizes.add(size)\n            return True",
        "            self._sizes.add(size)\n            return self.steps == 1",
        f"{LEAVES}::test_a_network_that_comes_into_play_later_is_found_then",
    ),
    M(
        "steps 10, 100, 1000 are not looked at",
        "inference/leaves.py",
        "        if size in self._sizes:\n            return self.steps == self._next",
        "        if size in self._sizes:\n            return False",
        f"{LEAVES}::test_when_a_graph_is_looked_at",
    ),
    M(
        "every restless step is looked at",
        "inference/leaves.py",
        "if len(self._sizes) < SIZES:",
        "if True:",
        f"{LEAVES}::test_when_a_graph_is_looked_at",
    ),
    M(
        "all tensors count as owned",
        "inference/leaves.py",
        "if key not in mine}",
        "if key in mine}",
        f"{LEAVES}::test_the_advice_trains_the_network_and_the_automatic_guide",
    ),
    M(
        "coordinates count as strangers",
        "inference/leaves.py",
        "self.leaves.update(leaves_of(tensor))",
        "pass",
        f"{LEAVES}::test_coordinates_that_the_program_differentiates_by_may_require_gradients",
    ),
    M(
        "whatever is no nn.Parameter is excused",
        "inference/leaves.py",
        "(key not in used if key in again else fresh)",
        "False",
        f"{LEAVES}::test_what_is_reached_and_not_declared_is_refused_by_name[tensor_in_closure-False]",
    ),
    M(
        "tensors made in every run are excused",
        "inference/leaves.py",
        "if key in again else fresh)",
        "if key in again else False)",
        f"{LEAVES}::test_what_is_reached_and_not_declared_is_refused_by_name[made_in_every_run-False]",
    ),
    M(
        "closures are not looked into",
        "language/visible.py",
        "yield from ((v, variable) for v in _content(cell))",
        "pass",
        f"{LEAVES}::test_what_is_reached_and_not_declared_is_refused_by_name[in_closure-False]",
    ),
    M(
        "lists in modules are not looked into",
        "language/visible.py",
        "            parts = [*value.named_modules()]",
        "            parts = []",
        f"{LEAVES}::test_what_is_reached_and_not_declared_is_refused_by_name[unregistered_layers-False]",
    ),
    M(
        "Pyro's warning is given again and again",
        "compat/pyro/infer/unregistered.py",
        "        self._told.update(id(stranger.leaf) for stranger in found)\n",
        "",
        f"{LEAVES}::test_pyro_runs_such_programs_and_says_once_that_the_network_is_not_trained",
    ),
    M(
        "Pyro's hidden parameters count as strangers",
        "compat/pyro/infer/unregistered.py",
        "{id(p) for _, p in known}",
        "set()",
        f"{LEAVES}::test_pyro_modules_that_are_registered_by_themselves_or_hidden_are_no_strangers",
    ),
    # Counting.
    M(
        "minibatches are miscounted",
        "testing/exact.py",
        "sets = sets * (size - min(count, size - count) + i) // i",
        "sets = sets * (size - i + 1) // i - (i > 1)",
        "test_counting.py::test_every_minibatch_comes_once",
    ),
    M(
        "minibatches are not counted",
        "testing/exact.py",
        '            self._refuse([sets], f"a minibatch of {count} of {size} has")\n',
        "            if sets > 10**12:\n                break\n",
        "test_counting.py::test_too_many_minibatches_are_counted",
    ),
    M(
        "always the first minibatch",
        "testing/exact.py",
        "range(size), count), chosen, None)",
        "range(size), count), 0, None)",
        "test_counting.py::test_every_minibatch_comes_once",
    ),
    M(
        "choices are counted one by one",
        "testing/exact.py",
        "            product *= number\n",
        "            product = number\n",
        "test_counting.py::test_joint_outcomes_of_a_plate_are_counted_before_any_is_run",
    ),
    M(
        "the caller's limit is ignored",
        "testing/exact.py",
        "    first = Outcomes(limit=limit)",
        "    first = Outcomes()",
        "test_counting.py::test_joint_outcomes_of_a_plate_are_counted_before_any_is_run",
    ),
    M(
        "one-hot vectors are listed to be counted",
        "distributions/inner.py",
        "    if isinstance(distribution, td.OneHotCategorical):\n",
        "    if False:\n",
        "test_counting.py::test_long_supports_are_counted_and_not_listed",
    ),
    M(
        "a list may be of any length",
        "distributions/inner.py",
        " > NUMBERS:",
        " < 0:",
        "test_counting.py::test_long_supports_are_counted_and_not_listed",
    ),
    # Names.
    M(
        "a parameter takes the place of an attribute",
        "objectives/parameters.py",
        "            object.__setattr__(self, name, value)",
        "            super().__setattr__(name, value)",
        "test_names.py::test_every_name_is_allowed_and_changes_nothing",
    ),
    M(
        "a module's dots are part of its name",
        "objectives/parameters.py",
        '        *path, last = message.name.split(".")\n        owner = self._group(path)\n        known',
        "        path, last = [], message.name\n        owner = self._group(path)\n        known",
        "test_names.py::test_modules_may_have_every_name",
    ),
    # Predictions.
    M(
        "values that were missing are a mistake elsewhere",
        "inference/predictive.py",
        "missing = {name + UNOBSERVED for name in latent}",
        "missing = set()",
        "test_predictive.py::test_stored_draws_of_missing_values_are_left_alone_at_other_rows",
    ),
    M(
        "values that were missing are taken for any site's",
        "inference/predictive.py",
        "missing = {name + UNOBSERVED for name in latent}",
        "missing = {n for n in given if n.endswith(UNOBSERVED)}",
        "test_predictive.py::test_stored_draws_of_missing_values_are_left_alone_at_other_rows",
    ),
    M(
        "computed values have no plates",
        "compat/pyro/infer/predictive.py",
        "default=0)\n        if message.event_dim",
        "default=0) * 0\n        if message.event_dim",
        "compat/test_predictive.py::test_computed_values_have_the_plates_around_them",
    ),
    # Small things.
    M(
        "minibatches of any size are one plate's",
        "language/plates.py",
        "    if len(known) != message.batch:",
        "    if False:",
        "compat/test_same_as_pyro.py::test_minibatches_of_different_sizes_are_an_error",
    ),
    M(
        "an impossible value's cost counts",
        "estimators/enumeration.py",
        "torch.where(draw.log_q[1:] == -torch.inf, 0.0, cost[1:])",
        "cost[1:]",
        "compat/test_same_as_pyro.py::test_a_value_of_probability_zero_counts_nothing",
    ),
    M(
        "a replaced module leaves its entries",
        "compat/pyro/nn/module.py",
        "self._modules.get(name, value) is not value:\n            self._forget_part(name)",
        "self._modules.get(name, value) is not value:\n            pass",
        "compat/test_same_as_pyro.py::test_a_submodule_that_is_replaced_takes_its_entries_along",
    ),
)
