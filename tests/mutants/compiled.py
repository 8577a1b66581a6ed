# ruff: noqa: E501 - one mutant a line
"""Mistakes in runs and compiled steps: Ctrl-C, errors, the cache of libraries, resumed runs."""

from mutants import M

MUTANTS = (
    M("Ctrl-C inside a step", "inference/interrupts.py", "held, self._held = self._held, _ALL", "held, self._held = self._held, 0", "ctrl c comes"),
    M("second Ctrl-C while a step is committed", "inference/interrupts.py", "self._last = number, frame\n        self._deliver_if_more_than(self._held)", "self._last = number, frame\n        self._deliver_if_more_than(min(self._held, 1))", "a second ctrl c"),
    M("Ctrl-C before the losses are kept", "inference/svi.py", "outcomes = self._advance(limit, args, kwargs)\n", "outcomes = self._advance(limit, args, kwargs)\n                interrupts.deliver()\n", "ctrl c comes"),
    M("Ctrl-C at the end of a run forgotten", "inference/svi.py", "if self._descent.interrupts.forget() or interrupted:", "if interrupted:", "ctrl c comes"),
    M("line search not taken back", "inference/descent.py", "if not finite:  # or an error", "if False:  # or an error", "an error of the program"),
    M("sha256 not compared", "capture/cache.py", "if hashlib.sha256(content).hexdigest() != sums[own]:", "if False:", "what is not whole"),
    M("owner of a file not asked for", "capture/cache.py", "if found.st_uid != os.geteuid():", "if False:", "what is not whole"),
    M("mode of a file not asked for", "capture/cache.py", "    if found.st_mode & _OTHERS:", "    if False:", "what is not whole"),
    M("folders above not asked for", "capture/cache.py", "if found.st_mode & _OTHERS and not found.st_mode & stat.S_ISVTX:", "if False:", "what is not whole"),
    M("owner of folders above not asked for", "capture/cache.py", "if found.st_uid not in (os.geteuid(), 0):", "if False:", "what is not whole"),
    M("names outside of the folder", "capture/cache.py", "not _NAME.fullmatch(name)", "False", "what is not whole"),
    M("links to libraries followed", "capture/cache.py", "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_RDONLY | os.O_NONBLOCK", "what is not whole"),
    M("links to entries followed", "capture/cache.py", "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW", "os.O_RDONLY | os.O_DIRECTORY", "what is not whole"),
    M("the file itself is loaded", "capture/cache.py", "return load(copy / name, report)", "return load(entry / name, report)", "what is loaded is a copy"),
    M("only what cannot be captured is refused", "inference/session.py", "except Exception as error:  # a mistake of ours", "except CaptureError as error:  # a mistake of ours", "a mistake refuses"),
    M("other numbers after a graph that fails", "inference/session.py", "self._by_python(form, args, kwargs, rows)", "self._by_python(form, args, kwargs)", "a mistake refuses"),
    M("numbers are no rows of one", "capture/c/entries.py", "return column(given) if isinstance(given, Place) and not given.shape else given", "return given", "a tensor without dimensions"),
    M("parameters and moments exchanged in words", "inference/quantities.py", 'for what in ("", *moments):', 'for what in (*moments, ""):', "the quantity that differs"),
    M("states share the estimators' memory", "inference/states.py", '"bound": copied(dict(bound.state_dict())),', '"bound": dict(bound.state_dict()),', "a run that is cut"),
    M("another seed for streams that begin later", "distributions/noise.py", 'self.seed = state.get("seed", self.seed)', "pass", "a run that is cut"),
    M("a resumed form begins anew", "inference/forms.py", "setattr(self, name, standing[name])", "pass", "a run that is cut"),
    M("half of a state that does not fit is loaded", "inference/states.py", "bound.load_state_dict(before)", "pass", "a run that is cut"),
)  # fmt: skip
