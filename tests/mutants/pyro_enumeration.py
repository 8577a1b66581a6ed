# ruff: noqa: E501 - one mutant a line
"""Mistakes in Pyro's names for enumeration, and in the posteriors behind them."""

from mutants import M

TESTS = "compat/test_enumeration.py::"
INFER = "compat/pyro/infer/"
POSTERIOR = "objectives/marginal_posterior.py"

MUTANTS = (
    M("a mask takes the probabilities of a summed-out site away", INFER + "infer_options.py", "forward(without_mask(message))", "forward(message)", "compat/test_enumeration_with_guides.py::test_capture_and_recapture"),
    M("the replay draws a minibatch of its own", INFER + "summed_out.py", "message.name in summed.indices:\n            message", "False:\n            message", TESTS + "test_a_minibatch_is_the_same_in_the_posterior_and_in_the_run"),
    M("values without a mark are drawn again", INFER + "summed_out.py", "**summed.priors, ", "", TESTS + "test_sites_without_a_mark_keep_the_value_that_the_posterior_was_found_for"),
    M("values that are given are no evidence", INFER + "discrete.py", "observed=True", "observed=False", TESTS + "test_a_value_that_is_given_is_evidence"),
    M("handlers outside see every run", INFER + "discrete.py", "lambda handler: True", "lambda handler: False", TESTS + "test_handlers_outside_see_one_run"),
    M("a site between the sum and the data is left out", POSTERIOR, "if name not in run.unguided and found:", "if False and found:", TESTS + "test_a_site_between_the_sum_and_the_data_needs_a_value"),
    M("the most probable value is drawn", POSTERIOR, 'if how == "sample" else', 'if how != "" else', TESTS + "test_marginals_and_the_most_probable_joint_value"),
    M("a run that was stopped stays in the trace", "compat/pyro/poutine/runtime.py", "handler._reset()", "handler", TESTS + "test_one_trace_for_each_joint_value"),
    M("steps of slices are forgotten", "compat/pyro/ops/indexing.py", "(slice(None),) * dim + (arg,)", "(slice(None),) * dim + (slice(arg.start, arg.stop),)", "compat/test_indexing.py::test_every_kind_of_index_at_every_place"),
)  # fmt: skip
