"""All cases, and a table of their number by kind: `python -m tests.campaign [WORD]` (only titles with it)."""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaign.every import CASES, accepted, controls, judge
from tests.campaign.world import Sandboxes


def main(word: str = "") -> int:
    """Run what has the word in its title; 1 if a case fails."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        sandboxes = Sandboxes(Path(home))
        results = judge([case for case in CASES if word in case.title], sandboxes)
        results |= {case: accepted(case, sandboxes) for case in controls() if word in case.title}
    counts, failed = Counter(), Counter()
    for case, found in results.items():
        counts[case.kind] += 1
        if found:
            failed[case.kind] += 1
            print(f"FAILED  {case.title}", *found, sep="\n        ")
    width = max(map(len, counts))
    print(f"{'kind':<{width}}  cases  failed")
    for kind, count in counts.items():
        print(f"{kind:<{width}}  {count:>5}  {failed[kind]:>6}")
    print(
        f"{'all':<{width}}  {counts.total():>5}  {failed.total():>6}  in {time.monotonic() - started:.0f} s"
    )
    return int(failed.total() > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
