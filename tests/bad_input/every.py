"""All cases, and whether a script does with one what it must."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence

from PIL import Image

import dataset.own  # noqa: F401 - imported here and not anew in every forked process
from deploy import onnx_file
from tests.bad_input import (
    checkpoints,
    descriptions,
    flags,
    images,
    labels,
    lists,
    options_files,
    places,
    results,
    states,
)
from tests.bad_input.case import Case, nothing, problems, run_forked, tree
from tests.bad_input.world import GOOD, SCORING, Sandboxes
from tests.conftest import load_script
from utils.errors import UserError

for script in GOOD:
    load_script(script)
Image.init()  # all of Pillow's plugins, for the same reason
with contextlib.suppress(UserError):
    onnx_file.libraries()

KINDS = (flags, lists, images, labels, checkpoints, options_files, descriptions, states, results, places)
TOGETHER = 25  # cases a process
CASES = [case for kind in KINDS for case in kind.cases()]


def judge(cases: Sequence[Case], sandboxes: Sandboxes) -> dict[Case, list[str]]:
    """Run cases; of each in what its refusal is not as it must be, mostly nothing.

    They share processes, which cost more to start than most cases take. Where one of several is not as it
    must be, each runs alone.
    """
    found = {}
    for together in groups(cases):
        of_group = _judge_together(together, sandboxes)
        if len(together) > 1 and any(of_group.values()):
            of_group = {case: _judge_together([case], sandboxes)[case] for case in together}
        found |= of_group
    return found


def groups(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Cases that can share a process: none that changes it."""
    alone = [case for case in cases if case.within is not nothing]
    others = [case for case in cases if case.within is nothing]
    yield from ([case] for case in alone)
    yield from (others[start : start + TOGETHER] for start in range(0, len(others), TOGETHER))


def _judge_together(cases: Sequence[Case], sandboxes: Sandboxes) -> dict[Case, list[str]]:
    with contextlib.ExitStack() as stack:
        # Cases that spoil nothing share a world too: that they leave it as it was is what is asserted.
        unharmed = [case for case in cases if case.spoil is nothing]
        shared = stack.enter_context(sandboxes.fresh()) if unharmed else None
        homes = [shared if c.spoil is nothing else stack.enter_context(sandboxes.fresh()) for c in cases]
        for case, home in zip(cases, homes, strict=True):
            case.spoil(home / "world")
        before = {home: tree(home) for home in set(homes)}
        outcomes = run_forked(cases, [home / "world" for home in homes])
        after = {home: tree(home) for home in before}
        return {
            case: problems(case, outcome, before[home], after[home])
            for case, outcome, home in zip(cases, outcomes, homes, strict=True)
        }


def _trust_exporter() -> None:
    """Whether the exporter's libraries compute what torch does is not the question here."""
    importlib.import_module("export_onnx").compare = lambda *_: {}


def controls() -> list[Case]:
    """Runs on the unharmed world that must succeed, so that no case passes because everything fails."""
    runs = [(script, good) for script, good in GOOD.items() if script != "demo"]  # tests/test_demo.py runs it
    runs += [("evaluate_cityscapes", SCORING)]
    cases = [
        Case("good input is accepted", " ".join(good), script, good, (), within=_trust_exporter)
        for script, good in runs
    ]
    return cases + [case for kind in KINDS[1:] for case in kind.accepted()]


def accepted(case: Case, sandboxes: Sandboxes) -> list[str]:
    """What a run that must succeed complains of, if it does."""
    with sandboxes.fresh() as sandbox:
        case.spoil(sandbox / "world")
        (outcome,) = run_forked([case], [sandbox / "world"])
    return [outcome.errors + outcome.output] if outcome.status or outcome.errors else []
