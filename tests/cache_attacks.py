"""Entries of the cache of compiled steps, and what a thief or an accident may do to one."""

import hashlib
import json
import os

import pytest

from varigrad.compile.backends import cache
from varigrad.compile.backends.cache import Untrusted


def entry(root, content=b"library", name="step.so", **report):
    folder = root / "key"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    whole = {"library": name, "sha256": {name: hashlib.sha256(content).hexdigest()}}
    (folder / "done.json").write_text(json.dumps({**whole, **report}))
    return folder


def content(path, report):
    return path.read_bytes()


def links_to(folder, name):
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def linked(folder):
    folder.rename(folder.with_name("real"))
    folder.symlink_to(folder.with_name("real"))


def pipe(folder):
    (folder / "step.so").unlink()
    os.mkfifo(folder / "step.so")


def reported(folder, **changed):
    path = folder / "done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


ATTACKS = {
    "truncated": (lambda f: (f / "step.so").write_bytes(b"lib"), "has been truncated or altered"),
    "empty": (lambda f: (f / "step.so").write_bytes(b""), "has been truncated or altered"),
    "altered": (lambda f: (f / "step.so").write_bytes(b"Library"), "has been truncated or altered"),
    "a link": (lambda f: links_to(f, "step.so"), "symbolic link"),
    "a report that is a link": (lambda f: links_to(f, "done.json"), "symbolic link"),
    "a folder that is a link": (linked, ""),
    "a pipe": (pipe, "another kind of file"),
    "others may write it": (lambda f: (f / "step.so").chmod(0o666), "others can write step.so (chmod go-w)"),
    "a group may write it": (lambda f: (f / "step.so").chmod(0o664), "others can write step.so (chmod go-w)"),
    "others may write the report": (lambda f: (f / "done.json").chmod(0o646), "others can write done.json"),
    "others may write the folder": (lambda f: f.chmod(0o777), "others can write"),
    "others may write the cache": (lambda f: f.parent.chmod(0o777), "others can write"),
    "others may write above": (lambda f: f.parent.parent.chmod(0o777), "others can write"),
    "outside": (lambda f: reported(f, library="../step.so"), "no sha256"),
    "outside, with a sum": (
        lambda f: reported(f, library="../step.so", sha256={"../step.so": "0"}),
        "'../step.so' is no name of a file inside the folder",
    ),
    "by its path": (lambda f: reported(f, library="/etc/passwd", sha256={"/etc/passwd": "0"}), "is no name"),
    "no sum": (lambda f: reported(f, sha256={}), "no sha256"),
    "another sum": (lambda f: reported(f, sha256={"step.so": "0" * 64}), "has been truncated or altered"),
    "no report": (lambda f: (f / "done.json").unlink(), ""),
    "no library": (lambda f: (f / "step.so").unlink(), ""),
    "half a report": (lambda f: (f / "done.json").write_text('{"libr'), ""),
    "a report that is a list": (lambda f: (f / "done.json").write_text("[]"), ""),
}


def loads_a_copy(home):
    root = cache.made(home)
    folder = entry(root)
    seen = []

    def load(path, report):
        seen.append(path)
        (folder / "step.so").write_bytes(b"")  # another process cuts it short meanwhile
        return path.read_bytes()

    assert cache.loaded(folder, load) == b"library"
    assert folder not in seen[0].parents and not seen[0].exists()
    assert {f.name for f in root.iterdir()} == {"key"}


def refuses_what_is_anothers(whose, home, monkeypatch):
    folder = entry(cache.made(home))
    path = next(p for p in (folder / "step.so", folder / "done.json", folder, home, home.parent) if p.name == whose)
    real_stat, real_fstat, found = os.stat, os.fstat, path.stat()

    def foreign(result):
        if (result.st_ino, result.st_dev) != (found.st_ino, found.st_dev):
            return result
        return os.stat_result([*result[:4], os.geteuid() + 1, *result[5:]])

    monkeypatch.setattr(cache.os, "stat", lambda *a, **k: foreign(real_stat(*a, **k)))
    monkeypatch.setattr(cache.os, "fstat", lambda *a, **k: foreign(real_fstat(*a, **k)))
    with pytest.raises(Untrusted, match="belongs to another user"):
        cache.loaded(folder, content)
