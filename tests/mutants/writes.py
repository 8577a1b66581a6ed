# ruff: noqa: E501 - one mutant a line
"""Ways out of torch by writes, errors, sizes and code that is not torch's, which the tracker lets pass."""

from mutants import M

LAW = "test_leaks.py::test_every_way_out_of_torch_is_noticed"

MUTANTS = (
    M("writes in a schema not looked at", "terms/side_effects.py", "if any(writes(a) for s in schemas for a in s.arguments):", "if False:", f"{LAW}[writes: index_put-score]"),
    M("running averages not looked at", "terms/side_effects.py", 'return switch is None or given(switch, args, kwargs) is not False', "return False", f"{LAW}[writes: running_averages_of_the_operator-score]"),
    M("inplace and max_norm not looked at", "terms/side_effects.py", "return lambda args, kwargs: any(given(n, args, kwargs) not in (None, False) for n in named)", "return None", f"{LAW}[writes: renormalised-score]"),
    M("code that is not torch's trusted", "terms/side_effects.py", '_FOREIGN = Effect("", "calls code that is not torch\'s")', '_FOREIGN = Effect("")', f"{LAW}[calls: custom_operator-score]"),
    M("functions written in Python trusted", "terms/side_effects.py", 'return Effect(name, "is written in Python and not on the list of those that carry")', "return Effect(name)", f"{LAW}[backward: hook_of_a_leaf-score]"),
    M("functions without a schema trusted", "terms/side_effects.py", 'return Effect(_plain_name(name), "has no schema")', "return Effect(_plain_name(name))", f"{LAW}[writes: map_-score]"),
    M("functions that tell trusted", "terms/side_effects.py", "        return Effect(plain, TELLING[name])", "        pass", "leak by nonzero"),
    M("sizes among arguments not looked at", "terms/side_effects.py", "        measured=bool(as_size),", "        measured=False,", f"{LAW}[sizes: zeros-score]"),
    M("sizes among arguments of Python's functions not looked at", "terms/side_effects.py", "        measured=bool(sizes) or rest is not None or generic,", "        measured=False,", f"{LAW}[sizes: split_of_what_is_tracked-score]"),
    M("masks as indices carry", "terms/side_effects.py", "return Effect(name, changes=_by_mask)", "return Effect(name)", f"{LAW}[sizes: mask-score]"),
    M("errors never caught", "terms/caught_errors.py", "            if not module.startswith((\"torch.\", \"varigrad.\")) and _catches(frame, code):\n                return True", "            pass", f"{LAW}[errors: index_out_of_range-score]"),
    M("except blocks not looked at", "terms/caught_errors.py", "            elif _ends(handler):\n                return True", "            elif _ends(handler):\n                return False", "test_leaks.py::test_where_an_error_would_be_caught"),
    M("managers that swallow errors not looked at", "terms/caught_errors.py", "elif _may_swallow(manager):", "elif False:", "test_leaks.py::test_where_an_error_would_be_caught"),
    M("managers that cannot be told trusted", "terms/caught_errors.py", "doubtful.add(instructions[begun].offset)", "pass", "test_leaks.py::test_where_an_error_would_be_caught"),
    M("an asynchronous manager taken for the one before", "terms/caught_errors.py", '("BEFORE_WITH", "BEFORE_ASYNC_WITH")', '("BEFORE_WITH",)', "test_leaks.py::test_where_an_error_would_be_caught"),
    M("finally taken for except", "terms/caught_errors.py", '        if instruction.opname == "RERAISE":\n            return False', '        if instruction.opname == "RERAISE":\n            return True', "test_leaks.py::test_where_an_error_would_be_caught"),
    M("errors of torch tell nothing", "terms/tracked.py", "            except BaseException:  # that torch raises an error tells what the values were\n                _escape(inputs)\n                raise", "            except BaseException:\n                raise", f"{LAW}[errors: index_out_of_range-score]"),
    M("memory swapped unseen", "terms/data_assignment.py", "            self.escapes.add(get_provenance(args[1]))", "            pass", f"{LAW}[writes: swapped_memory-score]"),
    M("hooks and modes that listen not looked at", "terms/tracked.py", "or anyone_listens()", "or False", f"{LAW}[calls: hook_on_saved_tensors-score]"),
    M("out= not looked at", "terms/tracked.py", '(kwargs and (plain_kwargs.get("out") is not None or', "(kwargs and (", "leak by out"),
)  # fmt: skip
