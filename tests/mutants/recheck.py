# ruff: noqa: E501 - one mutant a line
"""Mistakes in what is looked at again, and in what a look leaves behind."""

from mutants import M

R, U, D, E, B = (
    "objectives/checks/rechecks.py",
    "objectives/without_side_effects.py",
    "objectives/discovery.py",
    "objectives/exploration.py",
    "objectives/bound.py",
)
APART = "test_rechecks.py::test_modes_and_arguments_tell_without_operations"
LATE = "test_rechecks.py::test_what_could_not_be_seen_is_found_at_step_ten_with_one_warning"
COMPILED = "test_rechecks.py::test_blocks_of_compiled_steps_end_where_looks_are_due"
ONCE = "test_rechecks.py::test_a_change_is_seen_at_once"
UNDONE = "test_without_side_effects.py::test_what_a_program_does_meanwhile_is_undone"
LEFT = "test_without_side_effects.py::test_finding_out_leaves_nothing_behind[network-init]"

MUTANTS = (
    M("never looks again", R, "if explored.steps >= self.due or (self._buffers", "if (self._buffers", LATE),
    M("looks again at step 100 first", R, "FIRST = 10\n", "FIRST = 100\n", LATE),
    M("looks once more, and never after that", R, "        due *= 10\n", "        due *= 10**9\n", "test_rechecks.py::test_a_later_look_says_since_when"),
    M("warns of every step so far", R, "since, self.since = self.since, explored.steps", "since = self.since", "test_rechecks.py::test_a_later_look_says_since_when"),
    M("finds a change and keeps the old vectorization", R, "        explored.use(found)\n        self.settle(explored, args, kwargs)\n", "        self.settle(explored, args, kwargs)\n", LATE),
    M("finds a change and says nothing", R, "            if worse:\n                self._warn(explored, worse, since)", "            pass", LATE),
    M("warns inside a look", R, "if not explored.quiet:", "if True:", "test_rechecks.py::test_a_look_at_a_step_that_is_due_neither_warns_nor_cures"),
    M("ignores modes of modules", R, "tuple(map(_TRAINING, self._modules))", "()", f"{APART}[eval_to_train_without_averages]"),
    M("ignores arguments", R, "shapes = tuple(map(_shape, args))", "shapes = ()", f"{APART}[other_number]"),
    M("ignores the size of arguments", R, "return value.shape, value.dtype", "return value.dtype", f"{APART}[other_shape]"),
    M("ignores statements and operations", R, "if not (other or unlike):", "if True:", f"{ONCE}[branch_with_a_site-score]"),
    M("finds a branch and takes the step by the old vectorization", E, "        return now.vectorization.mixed\n", "        return {}\n", f"{ONCE}[branch_with_a_site-score]"),
    M("looks at every shape for ever", R, "if len(self._arguments) > SHAPES:", "if False:", "test_rechecks.py::test_batches_of_ever_new_shapes_are_not_looked_at_for_ever"),
    M("forgets what it knew of a mode", R, "        if known is not None and not late and not touched:", "        if False:", "test_rechecks.py::test_modes_that_go_back_and_forth_are_looked_at_once_each"),
    M("compiled blocks run over the look", "inference/svi.py", "min(limit, self.bound.steps_to_look)", "limit", COMPILED),
    M("what operations prove to be mixed is ignored", D, "        self._add(self._proof.mixed)\n", "", f"{ONCE}[number_in_a_closure-score]"),
    M("mixing is not passed on to what a site is drawn from", D, "self._mixed = with_upstream_sites(self._mixed, seen)", "pass", "test_rechecks.py::test_numbers_at_other_points_tell_without_operations[through_another_site]"),
    M("a plan takes the place of what the run knows", B, "            return self.exploration.look(args, kwargs, self.discovered).plan\n", "            self.exploration.use(self.exploration.look(args, kwargs, self.discovered))\n            return self.latest_plan\n", "test_rechecks.py::test_a_plan_tells_of_a_change_and_leaves_the_run_as_it_is"),
    M("memory is not given back", U, "                tensor.data = data\n        for tensor, requires_grad", "                pass\n        for tensor, requires_grad", UNDONE),
    M("buffers are written to", U, "self.show(tensor, tensor.data.clone())", "pass", LEFT),
    M("modes are not put back", U, "            module.training = training\n", "", UNDONE),
    M("gradients are not put back", U, "                tensor.grad = grad\n", "                pass\n", UNDONE),
    M("frozen parameters are not put back", U, "                tensor.requires_grad_(requires_grad)\n", "", UNDONE),
    M("torch's generator goes on", U, "    set_global_state(states.torch)\n", "", "test_without_side_effects.py::test_looking_changes_nothing_in_a_loop_of_ones_own[network]"),
    M("numpy's generator goes on", U, "    np.random.set_state(states.numpy)\n", "", "test_without_side_effects.py::test_looking_changes_nothing[numpy-False-plan]"),
    M("a program's own generators go on", U, "        elif isinstance(generator, np.random.Generator):\n            generator.bit_generator.state = state\n", "        elif isinstance(generator, np.random.Generator):\n            pass\n", "test_without_side_effects.py::test_looking_changes_nothing[numpy-False-plan]"),
    M("modules that are only called are not known", U, "            self.lend_module(module)\n\n    def _note", "            pass\n\n    def _note", UNDONE),
    M("parameters stay moved", "objectives/checks/perturbed_points.py", "            kept.show(tensor, numbers)\n\n\ndef moved_arguments", "            pass\n\n\ndef moved_arguments", "test_rechecks.py::test_points_are_left_again"),
    M("initial values are drawn from the look's numbers", "objectives/initializing_store.py", "with self.kept.lasting() if callable(message.init) else nullcontext():", "with nullcontext():", "test_without_side_effects.py::test_initial_values_that_are_asked_for_at_once_count_as_drawn"),
    M("evaluations all see the same draws", E, "count = count + 1 if step == self.steps else 0", "count = 0", "test_without_side_effects.py::test_evaluations_differ_from_each_other_and_can_be_repeated"),
    M("evaluations draw from the run", B, "with self.preserved(self.exploration.fresh_seed()), torch.no_grad():\n            values", "with torch.no_grad():\n            values", "test_without_side_effects.py::test_looking_changes_nothing[plain-False-evaluate]"),
)  # fmt: skip
