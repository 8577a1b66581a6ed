# ruff: noqa: E501 - one mutant a line
"""Sites of the model that are summed out: the elimination, its place among terms, and what is refused."""

from mutants import M

PROGRAMS = "test_marginal_programs.py::test_value_and_gradient_are_those_of_brute_force[0]"
MORE = "test_marginal_programs.py::test_value_and_gradient_are_those_of_brute_force[15]"
MEAN = "test_marginal_exact.py::test_the_mean_of_the_gradient_is_exact"
BAD = "test_marginal_bad_input.py::"
PLATED, CONTRACTION, REDUCTIONS = (
    "terms/elimination/plated.py",
    "terms/elimination/contraction.py",
    "distributions/log_space.py",
)
MARGINAL, WEIGHTS, VALUES = (
    "terms/marginal.py",
    "objectives/weights_and_kl.py",
    "objectives/checks/marginal_densities.py",
)

MUTANTS = (
    # The elimination.
    M("marginal: a factor counted twice", CONTRACTION, "for part in parts])", "for part in (*parts, parts[0])])", PROGRAMS),
    M("marginal: a site summed before all that read it", CONTRACTION, "if site in summed and site not in elsewhere)", "if site in summed)", PROGRAMS),
    M("marginal: sites of a product in another order", CONTRACTION, "key=position.__getitem__))", "key=position.__getitem__, reverse=True))", PROGRAMS),
    M("marginal: a plate averaged, not multiplied", PLATED, "table.sum(frame.dim, keepdim=True)", "table.mean(frame.dim, keepdim=True)", PROGRAMS),
    M("marginal: a plate forgotten", PLATED, "for frame in leaf - outside:", "for frame in sorted(leaf - outside, key=str)[1:]:", PROGRAMS),
    M("marginal: outer plates first", PLATED, "leaf = max((f.frames", "leaf = min((f.frames", PROGRAMS),
    M("marginal: parts that share a site told apart", PLATED, "touched |= group[0]", "pass", MEAN + "[two choices in a row]"),
    M("marginal: a coupling between plates not refused", PLATED, "                _refuse(factor, frames)", "                done.append(factor)\n                continue", BAD + "test_plates_whose_elements_are_coupled"),
    M("marginal: no gradient through a sum", REDUCTIONS, "total = (table - shift).exp()", "total = (table.detach() - shift).exp()", PROGRAMS),
    M("marginal: the shift of a sum not put back", REDUCTIONS, ".log() + shift.squeeze(dims)", ".log()", PROGRAMS),
    M("marginal: an impossible sum is not a number", REDUCTIONS, "torch.where(largest.isinf(), 0.0, largest)", "largest", BAD + "test_a_sum_without_any_possible_value"),
    M("marginal: the gradient of an impossible sum is not a number", REDUCTIONS, "torch.where(possible, total, 1.0).log()", "total.log()", BAD + "test_a_sum_without_any_possible_value"),
    # Chains.
    M("scan: rounds not compared with rounds by themselves", VALUES, "_check_rounds(perform, densities, spread, single, index)", "pass", "test_scan.py::test_a_step_that_joins_rounds_is_refused[summing]"),
    M("scan: terms without states not compared", VALUES, "known = {term.name: term.raw for term in spread.others if term.sign > 0}", "known: dict[str, Tensor] = {}", "test_scan.py::test_a_term_without_states"),
    M("scan: a product of matrices in the other order", "terms/elimination/chains.py", "reduce(one.unsqueeze(row + 2) + two.unsqueeze(row), [row + 1])", "reduce(two.unsqueeze(row + 2) + one.unsqueeze(row), [row + 1])", "test_scan.py::test_it_is_the_loop[17]"),
    M("scan: an odd round lost", "terms/elimination/chains.py", "torch.cat([product, odd], dim) if count % 2 else product", "torch.cat([product, product.narrow(dim, 0, 1)], dim) if count % 2 else product", "test_scan.py::test_it_is_the_loop[40]"),
    M("scan: rounds backwards", "terms/elimination/chains.py", "for matrix in reversed(earlier):", "for matrix in earlier:", "test_scan.py::test_it_is_the_loop[7]"),
    M("scan: a chain after its first round", PLATED, "(len(fs), any(f.name in by_plate for f in fs))", "(len(fs), not any(f.name in by_plate for f in fs))", "test_scan.py::test_it_is_the_loop[7]"),
    M("scan: states before and after a round apart", PLATED, "{same.get(site, site) for site in sites.intersection(factor.sites)}", "set(sites.intersection(factor.sites))", "test_scan.py::test_a_step_that_reads_the_state_before_it_alone"),
    M("posterior: scaled minibatches", "objectives/marginal_posterior.py", "scaled=False, added=added", "scaled=True, added=added", "test_scan.py::test_posteriors_of_a_minibatch"),
    # Scales and minibatches.
    M("marginal: a minibatch not scaled inside a sum", PLATED, "if scaled and frame.scale != 1.0 else table", "if False else table", MORE),
    M("marginal: a minibatch scaled twice inside a sum", PLATED, "table=table * frame.scale if", "table=table * frame.scale**2 if", MORE),
    M("marginal: a minibatch not scaled outside of a sum", MARGINAL, "scale = scale * frame.scale", "pass", PROGRAMS),
    M("marginal: a minibatch's scale outside of its plate", MARGINAL, "scale = scale / (plate.size / plate.batch)", "pass", PROGRAMS),
    M("marginal: a scale around everything forgotten", MARGINAL, "scale = _own_scale(members, factor)", "scale = _own_scale(members, factor) * 0 + 1.0", PROGRAMS),
    M("marginal: scales that differ not refused", MARGINAL, "same = abs(other - first) <= 1e-9 * abs(first)", "same = True", BAD + "test_densities_that_are_scaled_in_different_ways"),
    M("marginal: scales that differ by element not refused", MARGINAL, "any(first.shape[d] > 1 and", "any(first.shape[d] < 1 and", BAD + "test_densities_that_are_scaled_in_different_ways"),
    M("marginal: weights that differ not refused", WEIGHTS, "for part in term.parts:", "for part in ():", BAD + "test_weights_that_differ_inside_one_sum"),
    # Masks, lanes, slots, what is upstream.
    M("marginal: the mask of a summed-out site ignored", "terms/term.py", "if own is None else own.masked(log_prob, message.mask)", "if own is None else log_prob", PROGRAMS),
    M("marginal: a masked site counts its values", MARGINAL, "-math.log(len(self.values))", "0.0", PROGRAMS),
    M("marginal: lanes dropped", MARGINAL, "raw = factor.table if slots.lanes > 1 and factor.table.shape[0] > 1 else factor.table[0]", "raw = factor.table[0]", PROGRAMS),
    M("marginal: sites that are read together share a slot", MARGINAL, "beside[site].update(together)", "beside[site].update(together[:1])", PROGRAMS),
    M("marginal: what is upstream of a sum lost", MARGINAL, "            if site not in slots.sites:\n                    upstream", "            if site not in slots.sites and member is members[0]:\n                    upstream", MEAN + "[a coin below a choice]"),
    M("marginal: crossed plates upstream of a sum lost", MARGINAL, "upstream.get(site, frozenset()) | across", "frozenset()", MEAN + "[choices that read all coins]"),
    M("marginal: plates of a sum lost", MARGINAL, "for m in members for p in m.message.plates if p.name in inside}", "for m in members[:0] for p in m.message.plates if p.name in inside}", MEAN + "[coins beside choices]"),
    M("marginal: no loop for alternatives in a look", "objectives/discovery.py", "loop=like is not None or not vectorization.lanes", "loop=like is not None", PROGRAMS),
    # What is refused.
    M("marginal: densities not compared value by value", "objectives/discovery.py", "check_marginal_values(self._again, densities_of, wide)", "pass", BAD + "test_a_program_that_has_another_density_with_all_values_at_once"),
    M("marginal: values may leave torch", "objectives/execute.py", "check_values_stay(record.marginal, record.tracker.escapes.provenance)", "pass", BAD + "test_a_value_that_leaves_torch"),
    M("marginal: sites may be read outside of their plates", MARGINAL, "if p.dim is not None and p.name not in inside}", "if p.dim is not None and p.name == 0}", BAD + "test_a_site_read_outside_of_its_plate"),
    M("marginal: closed forms below a sum", WEIGHTS, "if not given.keys().isdisjoint(marginal):", "if False:", BAD + "test_a_divergence_in_closed_form_of_a_site_below_a_sum"),
    M("marginal: observed sites may be named", "objectives/marginal_sites.py", "if name in observed:", "if False:", BAD + "test_names_that_mean_nothing_to_sum"),
    M("marginal: sites of the guide may be named", "objectives/marginal_sites.py", "if name in guided:", "if False:", BAD + "test_names_that_mean_nothing_to_sum"),
    M("marginal: a row that is possible named as impossible", "objectives/marginal_plan.py", "bad = ~best.isfinite()", "bad = best.isfinite()", BAD + "test_an_impossible_observation_is_named_with_its_row"),
)  # fmt: skip
