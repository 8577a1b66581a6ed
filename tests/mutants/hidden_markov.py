"""Mistakes in hidden Markov distributions: the scans, the filters, what is missing."""

from mutants import M

H = "distributions/hidden_markov/"
D, G, P = "test_discrete_hmm.py", "test_gaussian_hmm.py", "test_hidden_markov_programs.py"

# ruff: noqa: E501 - one mutant a line
MUTANTS = (
    M("an impossible row has the derivative NaN", "distributions/log_space.py", "torch.where(possible, total, 1.0).log()", "total.log()", f"{D}::test_impossible_and_far_values_give_numbers_and_gradients_that_are_not_nan"),
    M("products of shifted exponentials", "distributions/log_space.py", "return reduction(first.unsqueeze(-1) + second.unsqueeze(-3), [-2])", "a, b = first.amax(-1, keepdim=True), second.amax(-2, keepdim=True)\n    return ((first - a).exp() @ (second - b).exp()).log() + a + b", f"{D}::test_products_in_log_space_are_exact"),
    M("the last of an odd number of elements lost", H + "scan.py", "        elements = operation(elements, last)", "        pass", f"{D}::test_all_paths"),
    M("what is left over in the wrong order", H + "scan.py", "for last in reversed(left_over):", "for last in left_over:", f"{D}::test_a_long_chain_keeps_its_digits_and_a_short_graph"),
    M("backwards as if forwards", H + "scan.py", "lambda later, earlier: operation(earlier, later), act)", "operation, act)", f"{D}::test_all_paths"),
    M("the first state sees an observation", H + "forward_backward.py", "    row = initial.unsqueeze(-2)\n    for factor in factors.unbind(-3):\n        row = log_matmul(row, factor)", "    row = initial.unsqueeze(-2)\n    for factor in factors.unbind(-3)[1:]:\n        row = log_matmul(row, factor)", f"{D}::test_all_paths"),
    M("the loop for few states", H + "forward_backward.py", "return numbers <= NUMBERS_IN_A_STEP and", "return False and", f"{D}::test_a_long_chain_keeps_its_digits_and_a_short_graph"),
    M("logits that are not normalized", H + "discrete.py", "factors = normalized(self.transition_logits)", "factors = self.transition_logits", f"{D}::test_all_paths"),
    M("missing observations count", H + "discrete.py", "        if self.observed is not None:\n            observation = Masked", "        if False:\n            observation = Masked", f"{D}::test_all_paths"),
    M("missing observations in the support", H + "discrete.py", "possible if self.observed is None else possible | ~self.observed", "possible", f"{P}::test_missing_data_in_a_program"),
    M("the support of all states", H + "discrete.py", "self.event_dim)).any(-1)", "self.event_dim)).all(-1)", f"{P}::test_supports_and_where_densities_jump"),
    M("backward sampling by rows", H + "discrete.py", "factors[..., 1:, :, :]).mT, sample_shape)", "factors[..., 1:, :, :]), sample_shape)", f"{D}::test_posterior_draws_have_the_posterior_of_paths"),
    M("the wrong length of a value", H + "base.py", "if given != steps + event[1:] or not given[0]:", "if not given[0]:", f"{D}::test_mistakes_are_refused_by_name"),
    M("the noise of a step known", H + "kalman.py", "_symmetric(chain.noise - gain @ chain.look @ chain.noise)", "chain.noise", f"{G}::test_the_dense_joint_normal"),
    M("a product without the later observations", H + "kalman.py", "matmul(through, b_i + matmul(c_i, eta_j)) + b_j", "matmul(through, b_i) + b_j", f"{G}::test_the_dense_joint_normal"),
    M("missing observations have a volume", H + "kalman.py", "volume if observed is None else torch.where(observed, volume, 0.0)", "volume", f"{G}::test_the_dense_joint_normal"),
    M("all numbers observed", H + "gaussian.py", "self.observed.sum(-1) * value.shape[-1]", "value.shape[-2:].numel()", f"{G}::test_the_dense_joint_normal"),
    M("the posterior of the scale", H + "gamma_gaussian.py", "prior.concentration + count / 2", "prior.concentration + count", f"{G}::test_the_dense_student"),
    M("one scale for every draw of noise", H + "gamma_gaussian.py", "factor.rsqrt()", "factor", f"{G}::test_draws_have_the_moments_of_the_dense_joint"),
    M("transforms before the prediction is added", H + "linear.py", "        for transform in transforms:\n            value = transform(value)\n", "", f"{G}::test_a_linear_chain_takes_any_noise_and_transforms_of_observations"),
    M("edges of states not looked for", "distributions/support_edges.py", "    DiscreteHMM: _of_chain,\n", "", f"{P}::test_supports_and_where_densities_jump"),
)  # fmt: skip
