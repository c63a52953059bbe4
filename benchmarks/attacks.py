"""What every built-in reward says of answers that were made to fool it, beside the right answer.

    python benchmarks/attacks.py [--write] [ROW ...]

Prints a table a reward: attack, outcome, the mean value, and the time an answer took. `--write` puts the outcomes into
docs/rewards/attacks.md, to which `tests/benchmarks/test_attacks.py` holds every reward: look at what changed before it
is taken.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.attacking.measuring import Measured, measure, num_answers, prepare
from benchmarks.attacking.page import PAGE, outcomes, stated, written
from benchmarks.attacking.rows import ROWS


def main() -> int:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all where none is named")
    parser.add_argument("--write", action="store_true", help="put the outcomes into docs/rewards/attacks.md")
    given = parser.parse_args()
    if unknown := [row for row in given.rows if row not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    found: dict[str, dict[str, Measured]] = {}
    for name in given.rows or ROWS:
        reward = ROWS[name].reward()
        prepare()
        began = time.perf_counter()
        found[name] = dict(measure(reward, ROWS[name].below))
        spent = (time.perf_counter() - began) / num_answers()
        reward.close()
        print(_shown(name, found[name], 1000 * spent), flush=True)
    if given.write:
        text = PAGE.read_text(encoding="utf-8")
        both = {**stated(text), **outcomes(found)}
        PAGE.write_text(written(text, {name: both[name] for name in ROWS if name in both}), encoding="utf-8")
    return 0


def _shown(name: str, found: dict[str, Measured], milliseconds: float) -> str:
    clean = next(iter(found.values())).clean
    title = (
        f"\n{name}: {clean:.2f} for the right answer; {milliseconds:.1f} ms an answer, the first one's loading among it"
    )
    lines = [title, "| attack | outcome | value |", "|---|---|---|"]
    for attack, each in found.items():
        lines.append(f"| {attack} | {each.outcome} | {'-' if each.value is None else f'{each.value:.2f}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
