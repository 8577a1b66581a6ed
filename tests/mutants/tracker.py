# ruff: noqa: E501 - one mutant a line
"""What is upstream of what, and what escapes from the tracker."""

from mutants import M

ALONE = "test_rechecks.py::test_"
HERE = f"{ALONE}numbers_at_the_present_point_tell_without_operations"

MUTANTS = (
    # Steps.
    M("an option that makes a function jump ignored", "terms/discontinuous_operators.py", "        if not _jumps_here(name, args, kwargs, tracked):\n            return False", "        return False", "test_steps.py::test_what_jumps_leads_to_the_score_function[grid_sample]"),
    M("results without a derivative ignored", "terms/tracked.py", "elif has_no_derivative(", "elif False and has_no_derivative(", "test_steps.py::test_what_jumps_leads_to_the_score_function[no derivative at all]"),
    M("poles are not compared", "objectives/checks/pole_crossings.py", "if known is not None and known.crossed(pole):", "if False:", "test_steps.py::test_a_pole_between_two_runs_is_a_jump"),
    M("a reduction has no root", "terms/zero_crossings.py", "if name in _REDUCTIONS:", "if name == 'nowhere':", "test_steps.py::test_a_pole_between_two_runs_is_a_jump"),
    M("roots are always of one size", "terms/zero_crossings.py", "if not bool((alike | (size <= _EQUAL * high)).all()):", "if False:", "test_steps.py::test_parts_of_other_sizes_do_not_vanish_together"),
    M("arguments arrange nothing", "terms/side_effects.py", "replace(effect, arranged=True)", "replace(effect, arranged=False)", "test_rechecks.py::test_an_argument_that_makes_an_operation_mix_is_looked_at_before_its_step"),
    M("a denominator is positive whatever it is", "terms/poles.py", "if sign_of(value) != POSITIVE and (", "if False and (", "test_steps.py::test_a_pole_that_is_not_met_is_what_the_plan_relies_on"),
    # Dependencies.
    M("a value does not carry what is upstream of it", "terms/dependency_tracker.py", "provenance = site.upstream", "provenance = NOTHING", "score on chain"),
    M("sites not followed", "objectives/execute.py", "follow = needs.cost or", "follow = False and", "score on bernoulli"),
    M("escapes ignored", "terms/dependency_tracker.py", "escaped = self.escapes.provenance", "escaped = NOTHING", "leak by if"),
    M("escapes depend on one element of a plate", "terms/dependency_tracker.py", "Token(t.site, self.plates[t.site] - {PARTICLES}) for t in escaped", "Token(t.site) for t in escaped", "cross-element dependence by item"),
    M("the dispatcher does not mark", "terms/tracked.py", "if escapes is not None and not escapes.active:", "if True:", "leak by scripted"),
    M("writes in place ignored", "terms/side_effects.py", 'return Effect(plain, "writes into its arguments")', "return Effect(plain)", "leak by add_"),
    M("out= ignored", "terms/tracked.py", 'plain_kwargs.get("out") is not None', 'plain_kwargs.get("nothing") is not None', "leak by out"),
    M("shapes that tell ignored", "terms/side_effects.py", "return Effect(plain, TELLING[name])", "return Effect(plain)", "leak by nonzero"),
    M("masks as indices ignored", "terms/side_effects.py", "changes=_by_mask", "changes=None", "leak by mask shape"),
    M("transforms that close over a value ignored", "terms/hooks_and_modes.py", "if innermost_transform() is not None or function_modes()", "if function_modes()", "leak by vmap"),
    M("compiled callables not made eager", "terms/force_eager.py", 'self._stance = set_stance("force_eager")', 'self._stance = set_stance("default")', "a compiled callable"),
    M("a mask not looked at", "terms/dependency_tracker.py", "upstream |= message.mask._provenance", "pass", "dependent mask"),
    M("a scale not looked at", "terms/dependency_tracker.py", "upstream |= message.scale._provenance", "pass", "dependent scale"),
    M("a factor's value not looked at", "terms/dependency_tracker.py", "upstream |= get_provenance(message.log_factor)", "upstream |= NOTHING", "dependent factor"),
    M("leaving a plate crosses nothing", "terms/dependency_tracker.py", "t.cross_element | (self.plates[t.site] - here)", "t.cross_element", f"{ALONE}what_is_read_outside_of_a_plate_depends_on_all_elements_without_operations"),
    # Numbers are compared where operations prove nothing.
    M("mixing inside a plate ignored", "objectives/checks/plate_independence_by_values.py", "if _mixes(perform,", "if False and _mixes(perform,", f"{HERE}[by_its_neighbours]"),
    M("all sites changed at once only", "objectives/checks/plate_independence_by_values.py", "if _mixes(perform,", "if moves_anywhere(perform, collect, run, vectorization, known or {}) and _mixes(perform,", f"{ALONE}sites_that_cancel_in_each_other_are_changed_one_at_a_time"),
    M("every other element changed at once", "objectives/checks/plate_independence_by_values.py", "[index == i for i in range(size)]", "[index % 2 == 0]", f"{HERE}[from_one_element_to_another]"),
    M("mixing looked for at one draw only", "objectives/checks/plate_independence_by_values.py", "for start in starts:", "for start in starts[:1]:", f"{HERE}[where_no_draw_is]"),
    M("lanes compared at one draw only", "objectives/checks/lane_independence.py", "(8 if small and thorough else 2)", "0", f"{ALONE}lanes_are_compared_at_other_draws_without_operations"),
    M("hidden tensors not looked for", "terms/term.py", "if not statement.opaque:", "if True:", "a distribution may hide"),
    M("escapes cross particles", "terms/dependency_tracker.py", "self.plates[t.site] - {PARTICLES})", "self.plates[t.site])", "test_soundness.py::test_a_value_that_leaves_torch_stays_in_its_particle[leave_one_out]"),
    M("functions on no list are trusted", "terms/continuous_functions.py", "    if is_reviewed(name):\n", "    if True:\n", "test_poles.py::test_what_is_on_no_list_is_named"),
    M("relaxed values have no poles", "objectives/checks/pole_crossings.py", "(pathwise or estimator.needs.differentiable)", "pathwise", "test_poles.py::test_rebar_does_not_cross_a_pole"),
    M("a pole that relaxed values cross is not refused", "objectives/checks/first_run.py", "elif name in crossed:", "elif False:", "test_poles.py::test_rebar_does_not_cross_a_pole"),
    M("powers of zero are continuous", "terms/poles.py", "        return exponent\n", "        return None\n", "test_poles.py::test_every_name_of_a_pole_is_one[a power of zero]"),
    M("logarithms of what touches zero are continuous", "terms/poles.py", "if name in _LOGARITHMS:", "if name == 'none':", "test_poles.py::test_every_name_of_a_pole_is_one[log of what touches zero]"),
)  # fmt: skip
