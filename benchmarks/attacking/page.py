"""The table of docs/rewards/attacks.md: what every reward is expected to say of every attack."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.attacking.answers import ATTACKS
from benchmarks.attacking.measuring import Measured
from benchmarks.attacking.rows import ELSEWHERE

PAGE = Path(__file__).resolve().parents[2] / "docs/rewards/attacks.md"
OUTCOMES = ("fails", "below", "same", "ABOVE")
_BEGIN, _END = "<!-- table: python benchmarks/attacks.py --write -->", "<!-- end of the table -->"
_ATTACKS, _ATTACKS_END = "<!-- attacks -->", "<!-- end of the attacks -->"
_NONE = "-"


def stated(text: str) -> dict[str, dict[str, str]]:
    """By row and attack what the page `text` expects. Raises ValueError where an attack stands twice in a row."""
    rows: dict[str, dict[str, str]] = {}
    for line in _part(text, _BEGIN, _END).splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
        found: dict[str, str] = {}
        for outcome, cell in zip(OUTCOMES, cells, strict=True):
            for attack in cell.split(", ") if cell != _NONE else ():
                if found.setdefault(attack, outcome) != outcome:
                    raise ValueError(f"{name}: {attack} stands under {found[attack]} and {outcome}")
        rows[name.strip("`")] = found
    return rows


def table(rows: Mapping[str, Mapping[str, str]]) -> str:
    """The rows as Markdown; attacks in their own order."""
    lines = [f"| reward | {' | '.join(OUTCOMES)} |", "|---" * (1 + len(OUTCOMES)) + "|"]
    for name, found in rows.items():
        cells = [", ".join(each for each in found if found[each] == outcome) or _NONE for outcome in OUTCOMES]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def listing() -> str:
    """What the attacks are, and which rewards are attacked elsewhere."""
    lines = ["| attack | answers |", "|---|---|", *(f"| {each.name} | {each.what} |" for each in ATTACKS)]
    return "\n".join([*lines, "", *(f"`{each.type}`: {each.why} (`{each.test}`)." for each in ELSEWHERE)])


def outcomes(measured: Mapping[str, Mapping[str, Measured]]) -> dict[str, dict[str, str]]:
    """What was measured, without its numbers."""
    return {row: {attack: each.outcome for attack, each in found.items()} for row, found in measured.items()}


def written(text: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """The page `text` with the table of `rows`, and the attacks as they are."""
    text = _replaced(text, _BEGIN, _END, table(rows))
    return _replaced(text, _ATTACKS, _ATTACKS_END, listing())


def _part(text: str, begin: str, end: str) -> str:
    return text.split(begin, 1)[1].split(end, 1)[0].strip()


def _replaced(text: str, begin: str, end: str, part: str) -> str:
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{part}\n{end}{rest.split(end, 1)[1]}"
