"""Laws of steps whose parameters change groups in the middle of a run."""

import warnings

import torch
from step_programs import assert_close, far, program
from torch import nn

import varigrad as vg
from step_laws.base import LAWS, WAIT
from varigrad.compile.step.step_compiler import CaptureWarning
from varigrad.optim.update_rules import rule_of


def _remove(groups, p):
    groups[0]["params"] = [q for q in groups[0]["params"] if q is not p[0]]


def _remove_in_place(groups, p):
    del groups[0]["params"][0]


def _bring_back(groups, p):
    groups[1]["params"].append(p[0])


def _move(groups, p):
    groups[1]["params"].append(groups[0]["params"].pop(0))


def _exchange(groups, p):
    groups[0]["params"], groups[1]["params"] = groups[1]["params"], groups[0]["params"]


def _reorder_groups(groups, p):
    groups.reverse()


def _reorder_members(groups, p):
    groups[0]["params"].reverse()


def _split(groups, p):
    groups.append({**groups[0], "params": [groups[0]["params"].pop()], "lr": 0.07})


def _merge(groups, p):
    groups[0]["params"] += groups.pop()["params"]


def _empty_one(groups, p):
    groups[1]["params"].clear()


def _empty_all(groups, p):
    for group in groups:
        group["params"].clear()


REGROUPINGS = {
    "removed": (_remove,),
    "removed and put into another": (_remove_in_place, _bring_back),
    "moved": (_move,),
    "exchanged": (_exchange,),
    "groups in another order": (_reorder_groups,),
    "members in another order": (_reorder_members,),
    "split": (_split,),
    "merged": (_merge,),
    "a group without members": (_empty_one,),
    "no members at all": (_empty_all,),
}


def _regrouped(title, name):
    """Parameters are taken out of groups and put into others in the middle of a run, as torch lets users do."""

    def make(kind):
        ps = [nn.Parameter(torch.full((n,), 0.1 * n, dtype=torch.float64)) for n in (2, 3, 4)]
        return ps, lambda given: kind(
            [{"params": list(given[:2]), "lr": 0.02}, {"params": list(given[2:]), "lr": 0.05}]
        )

    kinds = {
        "Adam": lambda groups: torch.optim.Adam(groups, foreach=False),
        "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.8),
        "RMSprop": torch.optim.RMSprop,
    }

    def loss(*ps):
        return sum((i + 1) * far(p) for i, p in enumerate(ps))

    def holds():
        for changed, changes in REGROUPINGS.items():
            twins, build = make(kinds[name])
            own = build(twins)
            parameters, build = make(kinds[name])
            with warnings.catch_warnings(action="ignore", category=CaptureWarning):
                svi = vg.SVI(*program(loss, parameters), build, seed=0, compile="wait")
                svi.run(1, progress=False)
                optimizer = svi.optimizer  # held meanwhile: nothing but the groups tells of a change
                svi.run(WAIT - 1, progress=False)
                for change in (lambda groups, ps: None, *changes):
                    change(optimizer.param_groups, parameters)
                    change(own.param_groups, twins)
                    svi.run(WAIT, progress=False)
                    for _ in range(2 * WAIT if change.__name__ == "<lambda>" else WAIT):
                        own.zero_grad()
                        loss(*twins).backward()
                        own.step()
                    assert_close([p.detach() for p in parameters], [p.detach() for p in twins], 3 * WAIT, changed)
            (form,) = svi._step_compiler.specializations.values()
            nothing = changed == "no members at all" and rule_of(optimizer) is not None  # else it runs as it is
            assert (form.graph_steps > 0) != nothing, (changed, form.refusal)

    LAWS[f"groups that change, {title}"] = holds


for _name in ("Adam", "SGD", "RMSprop"):
    _regrouped(_name.lower(), _name)
