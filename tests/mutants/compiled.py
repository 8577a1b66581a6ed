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
    M("any compiler of C has one key", "compile/backends/c/library.py", "processor(), compiler_identity(c_compiler))", "processor())", "test_compilers.py::test_another_compiler_has_another_key[CC]"),
    M("any compiler of C++ has one key", "compile/backends/inductor.py", "torch.__version__, compiler_identity(cxx_compiler)", "torch.__version__", "test_compilers.py::test_another_compiler_has_another_key[CXX]"),
    M("the arguments of a compiler do not count", "compile/backends/cache_key.py", "return shlex.join(command), path,", "return command[0], path,", "test_compilers.py::test_another_argument_of_the_compiler_has_another_key"),
    M("the version of a compiler does not count", "compile/backends/cache_key.py", '    return done.stdout.decode(errors="replace")', '    return ""', "test_compilers.py::test_a_compiler_that_is_upgraded_in_place_has_another_key[CC]"),
    M("a compiler is known by its name for good", "compile/backends/cache_key.py", "    return found.st_mtime_ns, found.st_size", "    return 0, 0", "test_compilers.py::test_a_compiler_that_is_upgraded_in_place_has_another_key[CC]"),
    M("a missing compiler makes the key fail", "compile/backends/cache_key.py", "        return (str(error),)", "        raise", "test_compilers.py::test_a_compiler_that_is_missing_or_broken_has_a_key[no-such-compiler-CC]"),
    M("a compiler that is silent makes the key fail", "compile/backends/cache_key.py", "(OSError, subprocess.TimeoutExpired)", "OSError", "test_compilers.py::test_a_compiler_that_does_not_tell_its_version_has_a_key"),
    M("a broken C compiler is replaced without a word", "compile/step/step_compiler.py", "            if compilation.fallback:\n", "            if False:\n", "test_compilers.py::test_a_broken_c_compiler_is_named_where_inductor_takes_its_place[/bin/false]"),
    M("explain does not name a broken C compiler", "compile/step/explain.py", "if compilation is not None and compilation.fallback:", "if False:", "test_compilers.py::test_a_broken_c_compiler_is_named_where_inductor_takes_its_place[/bin/false]"),
)  # fmt: skip
