# ruff: noqa: E501 - one mutant a line
"""Mistakes in what the tracker knows of torch's operations: writes, errors, sizes, calls of users' functions."""

from mutants import M

MUTANTS = (
    M("indices of where ignored", "terms/side_effects.py", 'replace(effect, changes=_without_values) if name == "where" else effect', "effect", "leak by where"),
    M("hooks on saved tensors ignored", "terms/hooks_and_modes.py", "return hooks is not None and not all(", "return False and not all(", "way out, calls: hook_on_saved"),
    M("modes below Python ignored", "terms/tracked.py", "if dispatch_modes() and foreign_modes():", "if False:", "way out, calls: mode_below"),
    M("users' operators taken for torch's", "terms/side_effects.py", 'if space not in ("aten", "prims"):', "if False:", "way out, calls: custom_operator"),
    M("random numbers used up ignored", "terms/operator_allowlist.py", '"poisson binomial', '"binomial', "way out, calls: generator_used"),
    M("errors that are not raised ignored", "terms/tracked.py", 'or ((effect.raises or (kwargs and "rounding_mode" in kwargs)) and would_be_caught())', "", "way out, errors: index_out"),
    M("rounded divisions raise no errors", "terms/tracked.py", '(effect.raises or (kwargs and "rounding_mode" in kwargs))', "effect.raises", "way out, errors: division_rounded"),
    M("errors below Python ignored", "terms/tracked.py", "or (effect.raises and would_be_caught())", "", "way out, errors: scripted_error"),
    M("handlers further up not looked for", "terms/caught_errors.py", "        frame = frame.f_back\n    return False", "        frame = None\n    return False", "way out, errors: error_caught_further"),
    M("a handler around another not looked for", "terms/caught_errors.py", "        at = target", "        return False", "way out, errors: error_in_a_finally"),
    M("an except taken for a finally", "terms/caught_errors.py", "elif _ends(handler):", "elif not _ends(handler):", "way out, errors: index_out"),
    M("managers that swallow errors trusted", "terms/caught_errors.py", "or _answers(leave.__code__)", "or False", "way out, errors: error_swallowed_by_a_manager"),
    M("generators that swallow errors trusted", "terms/caught_errors.py", "return _has_handlers(inner.__code__)", "return False", "way out, errors: error_swallowed_by_a_generator"),
    M("everything is taken to raise no errors", "terms/side_effects.py", "raises=name not in TOTAL,\n        measured=bool(as_size)", "raises=False,\n        measured=bool(as_size)", "way out, errors: gather_out"),
    M("backward says nothing", "terms/operator_allowlist.py", "type is_coalesced", "type backward is_coalesced", "way out, backward: method"),
    M("a node of the graph says nothing", "terms/operator_allowlist.py", "name names\n", "name names grad_fn\n", "way out, backward: saved_tensor"),
    M("offsets in memory say nothing", "terms/operator_allowlist.py", "type is_coalesced", "type storage_offset is_coalesced", "way out, sizes: offset_of"),
    M("running averages ignored", "terms/side_effects.py", "return switch is None or given(switch, args, kwargs) is not False", "return False", "way out, writes: running_averages_by"),
    M("keywords not looked at", "terms/side_effects.py", "place < len(args) else kwargs.get(name)", "place < len(args) else None", "way out, writes: running_averages_of_instances"),
    M("renormalised embeddings ignored", "terms/side_effects.py", 'for n in ("inplace", "max_norm")', 'for n in ("inplace",)', "way out, writes: renormalised"),
    M("swapped memory not seen", "terms/data_assignment.py", "self.escapes.swapped = True", "pass", "way out, writes: swapped_memory"),
    M("swapped memory forgotten after the first run", "objectives/run_record.py", "guarded=run.tracker.escapes.swapped", "guarded=False", "way out, writes: swapped_memory"),
    M("sizes by position ignored", "terms/tracked.py", "if place < len(args) and _holds(args[place]):", "if False:", "way out, sizes: dimensions_of_a_sum_in_a_list"),
    M("sizes written out ignored", "terms/tracked.py", "if effect.rest is not None and any(", "if False and any(", "way out, sizes: reshape_to_a_second"),
    M("sizes by keyword ignored", "terms/tracked.py", "if name not in effect.tensors and _holds(given)", "if False and _holds(given)", "way out, sizes: view_by_keyword"),
    M("parts measured by tensors ignored", "terms/side_effects.py", "measures = name in MEASURED_BY_TENSORS and", "measures = False and", "way out, sizes: tensor_split_by_keyword"),
    M("operators of prims judged by those of aten", "terms/side_effects.py", "schemas_of(name, space)", "schemas_of(name)", "way out, sizes: iota"),
)  # fmt: skip
