# ruff: noqa: E501 - one mutant a line
"""Mistakes in runs and compiled steps: Ctrl-C, errors, the cache of libraries, resumed runs."""

from mutants import M

MUTANTS = (
    M("Ctrl-C inside a step", "interrupts.py", "held, self._held = self._held, _ALL", "held, self._held = self._held, 0", "ctrl c comes"),
    M("second Ctrl-C while a step is committed", "interrupts.py", "self._last = number, frame\n        self._deliver_if_more_than(self._held)", "self._last = number, frame\n        self._deliver_if_more_than(min(self._held, 1))", "a second ctrl c"),
    M("Ctrl-C before the losses are kept", "inference/svi.py", "results = self._advance(limit, args, kwargs)\n", "results = self._advance(limit, args, kwargs)\n                interrupts.deliver()\n", "ctrl c comes"),
    M("Ctrl-C at the end of a run forgotten", "inference/svi.py", "if self._eager_steps.interrupts.forget() or interrupted:", "if interrupted:", "ctrl c comes"),
    M("line search not taken back", "inference/eager_step.py", "if not finite:  # or an error", "if False:  # or an error", "an error of the program"),
    M("sha256 not compared", "compile/backends/cache.py", "if hashlib.sha256(content).hexdigest() != sums[own]:", "if False:", "what is not whole"),
    M("owner of a file not asked for", "compile/backends/cache.py", "if found.st_uid != os.geteuid():", "if False:", "what is not whole"),
    M("mode of a file not asked for", "compile/backends/cache.py", "    if found.st_mode & _OTHERS:", "    if False:", "what is not whole"),
    M("folders above not asked for", "compile/backends/cache.py", "if found.st_mode & _OTHERS and not found.st_mode & stat.S_ISVTX:", "if False:", "what is not whole"),
    M("owner of folders above not asked for", "compile/backends/cache.py", "if found.st_uid not in (os.geteuid(), 0):", "if False:", "what is not whole"),
    M("names outside of the folder", "compile/backends/cache.py", "not _NAME.fullmatch(name)", "False", "what is not whole"),
    M("links to libraries followed", "compile/backends/cache.py", "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_RDONLY | os.O_NONBLOCK", "what is not whole"),
    M("links to entries followed", "compile/backends/cache.py", "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW", "os.O_RDONLY | os.O_DIRECTORY", "what is not whole"),
    M("the file itself is loaded", "compile/backends/cache.py", "return load(copy / name, report)", "return load(entry / name, report)", "what is loaded is a copy"),
    M("only what cannot be captured is refused", "compile/step/step_compiler.py", "except Exception as error:  # a mistake of ours", "except CaptureError as error:  # a mistake of ours", "a mistake refuses"),
    M("other numbers after a graph that fails", "compile/step/step_compiler.py", "self._by_python(own, call, rows)", "self._by_python(own, call)", "a mistake refuses"),
    M("numbers are no rows of one", "compile/backends/c/ops_indexing.py", "if isinstance(given, BufferView) and not given.shape:", "if False:", "a tensor without dimensions"),
    M("parameters and moments exchanged in words", "compile/step/output_names.py", 'for what in ("", *moments):', 'for what in (*moments, ""):', "the quantity that differs"),
    M("states share the estimators' memory", "inference/run_state.py", '"bound": copied(dict(bound.state_dict())),', '"bound": dict(bound.state_dict()),', "a run that is cut"),
    M("another seed for streams that begin later", "distributions/counter_rng.py", 'self.seed = state.get("seed", self.seed)', "pass", "a run that is cut"),
    M("a resumed form begins anew", "compile/step/specialization.py", "        self.progress = self.progress.resumed(\n            saved[\"taken\"],", "        self.progress.resumed(\n            saved[\"taken\"],", "a run that is cut"),
    M("half of a state that does not fit is loaded", "inference/run_state.py", "bound.load_state_dict(before)", "pass", "a run that is cut"),
    M("programs that have not run are recorded", "inference/svi.py", "        if self.bound.is_empty:  # at the beginning", "        if self._eager_steps.current_optimizer is None and self.bound.is_empty:  # at the beginning", "test_resume.py::test_a_state_for_programs_that_have_not_run[wait-moving_average]"),
)  # fmt: skip
