"""All cases, and a table of their number by kind.

`python -m tests.bad_input [WORD]` (only titles with it).
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.bad_input.case import Case
from tests.bad_input.every import CASES, TOGETHER, accepted, controls, judge
from tests.bad_input.world import Sandboxes


def main(word: str = "") -> int:
    """Run what has the word in its title; 1 if a case fails, 2 if there is none."""
    started = time.monotonic()
    counts, failed = Counter(), Counter()
    for case, found in results(word):
        counts[case.kind] += 1
        if found:
            failed[case.kind] += 1
            print(f"FAILED  {case.title}", *found, sep="\n        ", flush=True)
    if not counts:
        print(f"no case has {word!r} in its title", file=sys.stderr)
        return 2
    width = max(map(len, counts))
    print(f"{'kind':<{width}}  cases  failed")
    for kind, count in counts.items():
        print(f"{kind:<{width}}  {count:>5}  {failed[kind]:>6}")
    print(
        f"{'all':<{width}}  {counts.total():>5}  {failed.total():>6}  in {time.monotonic() - started:.0f} s"
    )
    return int(failed.total() > 0)


def results(word: str) -> Iterator[tuple[Case, list[str]]]:
    """Every case with what is wrong with it, mostly nothing."""
    cases = [case for case in CASES if word in case.title]
    with tempfile.TemporaryDirectory() as home:
        sandboxes = Sandboxes(Path(home))
        for start in range(0, len(cases), TOGETHER):
            yield from judge(cases[start : start + TOGETHER], sandboxes).items()
        for case in controls():
            if word in case.title:
                yield case, accepted(case, sandboxes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bad_input", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="in the title of a case, as in `images:`")
    sys.exit(main(parser.parse_args().word))
