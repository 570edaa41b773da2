"""The campaign of bad input: a part of the cases of every kind; `python -m tests.bad_input` runs them all."""

import pytest

from tests.bad_input.every import CASES, accepted, controls, judge
from tests.bad_input.world import Sandboxes

SHARE = {"flags": 4}  # every so manieth case of a kind is run here
USUAL_SHARE = 10
KINDS = sorted({case.kind for case in CASES})


def part_of(kind: str) -> list:
    """The same cases each time, spread over all scripts."""
    return [case for case in CASES if case.kind == kind][:: SHARE.get(kind, USUAL_SHARE)]


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory) -> Sandboxes:
    return Sandboxes(tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_gets_one_line_and_harms_nothing(kind, sandboxes):
    cases = part_of(kind)
    wrong = {case.title: found for case, found in judge(cases, sandboxes).items() if found}
    assert cases and not wrong


def test_good_input_is_accepted(sandboxes):
    wrong = {case.title: found for case in controls()[::4] if (found := accepted(case, sandboxes))}
    assert not wrong


def test_no_two_cases_are_one_and_there_are_enough():
    titles = [case.title for case in CASES]
    assert len(set(titles)) == len(titles)
    assert sum(len(part_of(kind)) for kind in KINDS) >= 300
