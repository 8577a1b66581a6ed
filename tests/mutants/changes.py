# ruff: noqa: E501 - one mutant a line
"""What was found out about a program, and is believed although the program has changed."""

from mutants import M

EACH = "test_changing_programs.py::test_each_gate"

MUTANTS = (
    # When to look again.
    M("modes of modules not looked at", "objectives/checks/rechecks.py", "tuple(map(_TRAINING, self._modules))", "()", f"{EACH}[plate-train]"),
    M("shapes of arguments not looked at", "objectives/checks/rechecks.py", "shapes = tuple(map(_shape, args))", "shapes = ()", f"{EACH}[plate-shape]", also=(("objectives/discovery.py", "*map(_NAME, run.model), *run.sizes.items())", "*map(_NAME, run.model))"),)),
    M("flags among arguments not looked at", "objectives/checks/rechecks.py", "if isinstance(value, (bool, int, str)):", "if False:", f"{EACH}[plate-flag]"),
    M("no look when it is time", "objectives/checks/rechecks.py", "FIRST = 10", "FIRST = 10**6", "test_rechecks.py::test_a_later_look_says_since_when"),
    M("a run of other operations not looked at", "objectives/checks/rechecks.py", "if not (other or unlike):", "if not other:", "test_rechecks.py::test_a_run_of_other_operations_is_looked_at_before_its_step[argument]"),
    M("no second look at all", "objectives/bound.py", "elif not exploration.held:", "elif False:", f"{EACH}[lanes-train]"),
    M("mixing found later not added", "objectives/checks/rechecks.py", "        mixed[site] = mixed.get(site, frozenset()) | plates\n    side", "    side", f"{EACH}[plate-closure]"),
    M("a loop found later not added", "objectives/checks/rechecks.py", "        side, reason = False, found.reason\n", "", f"{EACH}[lanes-closure]"),
    M("one finding for all situations", "objectives/checks/rechecks.py", "if known is not None and not late and not touched:", "if not late and not touched:\n            known = explored.discovered", f"{EACH}[plate-eval]"),
    M("every evaluation looked at anew", "objectives/checks/rechecks.py", "if self._beside is None:", "if True:", "test_rechecks.py::test_evaluations_in_a_row_need_one_look"),
    M("what evaluations have found never counts as old", "objectives/checks/rechecks.py", "finding, self._beside = explored.discovered, None", "finding = explored.discovered", "test_rechecks.py::test_evaluations_in_a_row_need_one_look"),
    M("what runs beside the steps have found is not known in the next", "objectives/checks/rechecks.py", "if known is not None:  # with what such", "if False:  # with what such", "test_rechecks.py::test_what_runs_beside_the_steps_have_found_is_known_in_the_next"),
    # What a look looks at.
    M("operations prove no mixing", "objectives/checks/plate_independence_by_operations.py", 'if verdict.kind == "mixes":', "if False:", f"{EACH}[plate-hidden]"),
    M("what is not known to mix counts as apart", "objectives/checks/plate_independence_by_operations.py", "elif verdict.apart:", "else:", f"{EACH}[rare-closure]"),
    M("operations that mix lanes ignored", "objectives/discovery.py", '        if verdict.kind == "mixes":\n            return self._failure(', '        if False:\n            return self._failure(', f"{EACH}[lanes-hidden]"),
    M("numbers compared at the first point only", "objectives/discovery.py", "POINTS = 3", "POINTS = 0", f"{EACH}[rare-at zero]"),
    M("parameters stay where they are", "objectives/checks/perturbed_points.py", "kept.show(tensor, move(numbers, generator))", "pass", f"{EACH}[rare-scaled]"),
    M("arguments stay where they are", "objectives/discovery.py", "        if inputs:", "        if False:", f"{EACH}[rare-argument]", also=(("objectives/discovery.py", "inputs = attempt % 2 == 1", "inputs = False"),)),
    M("an operation without a rule keeps elements apart", "terms/independence/propagation.py", 'return ["unknown"] * len(call.results)\n    try', 'return [axis] * len(call.results)\n    try', f"{EACH}[rare-closure]"),
    # Rules for operations.
    M("sums keep elements apart", "terms/independence/rules.py", "    if axis.dim in dims:\n        return MIXES\n    return axis if call", "    return axis if call", f"{EACH}[summed-hidden]"),
    M("flips keep elements apart", "terms/independence/rules.py", "return MIXES if axis.dim in several(dims, slot.tensor.dim()) else axis\n\n\ndef reducing", "return axis\n\n\ndef reducing", f"{EACH}[plate-hidden]"),
    M("matrix products keep elements apart", "terms/independence/rules.py", "            return MIXES if axis.dim == contracted[0] else axis", "            return axis", f"{EACH}[multiplied-hidden]"),
    M("slices keep elements apart", "terms/independence/rules.py", "return MIXES if dim == axis.dim and not whole else axis", "return axis", f"{EACH}[sliced-hidden]"),
    M("elements of a list kept apart", "terms/independence/rules.py", "return MIXES if dim == axis.dim else moved(axis, [dim])", "return moved(axis, [dim])", f"{EACH}[unbound-hidden]"),
    # Compiled steps.
    M("steps by graph not looked at again", "inference/svi.py", "if self.bound.look_again(args, kwargs):", "if False:", "test_changing_programs.py::test_each_gate_of_recorded_steps[rare-rectified]"),
    M("a graph kept though a look has found it wrong", "inference/svi.py", "                self._step_compiler = StepCompiler(self._eager_steps, self._step_compiler.wait)", "                pass", "test_changing_programs.py::test_each_gate_of_recorded_steps[rare-rectified]"),
)  # fmt: skip
