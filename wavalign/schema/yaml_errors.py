"""What PyYAML's scanner and parser say, in words about the recipe."""

from collections.abc import Callable

import yaml
from yaml.reader import ReaderError

from wavalign.errors import Problem, Where

_Mark = Callable[[int, int], Where]

_PLAIN_WORDS: tuple[tuple[str, str, str], ...] = (
    (
        "mapping values are not allowed",
        "a `:` stands where no key can be",
        "indent the line like its neighbours; quote a text that holds `: `",
    ),
    ("could not find expected ':'", "this line is no `key: value`", "add the `:`, or indent it under the text above"),
    ("expected <block end>", "the indentation fits none of the lines above", "indent keys of one mapping alike"),
    ("sequence entries are not allowed", "a list entry `- ` stands where none can be", "put it on its own line"),
    ("expected ',' or", "a bracket or a comma is missing", "close every `{` and `[`, and put `,` between entries"),
    ("end of stream", "what opens here is never closed", "close the quote"),
    ("expected the node content", "a value is missing or begins wrongly", "quote a text that begins with a sign"),
    ("expected alphabetic or numeric", "an `&` or `*` needs a name after it", "quote a text that begins so"),
    ("unknown escape character", "an escape that YAML does not know", "use single quotes, they know no escapes"),
    ("escape sequence", "an escape that YAML does not know", "use single quotes, they know no escapes"),
    ("undefined tag handle", "a tag that YAML does not know", "quote a text that begins with `!`"),
)
_AT_THE_START = ("end of stream", "could not find expected ':'")
"""For these the place where the construct began says more than the place where the scanner gave up."""


def explain_yaml_error(error: Exception, text: str, mark: _Mark) -> Problem:
    """The problem behind a YAML error in `text`; `mark` turns line and column from 0 into a place."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        where = mark(before.count("\n"), len(before) - before.rfind("\n") - 1)
        shown = f"U+{ord(text[error.position]):04X}" if error.position < len(text) else "?"
        return Problem("yaml_character", "", f"the control character {shown} is not allowed", "delete it", where)
    if not isinstance(error, yaml.MarkedYAMLError):
        hint = "check the escapes (`\\x`, `\\u`) in double-quoted texts"
        return Problem("yaml_syntax", "", f"not valid YAML: {error}", hint, mark(0, 0))
    return _explain_marked(error, mark)


def _explain_marked(error: yaml.MarkedYAMLError, mark: _Mark) -> Problem:
    said = error.problem or "unreadable"
    spot = error.problem_mark or error.context_mark
    if error.context_mark is not None and any(part in said for part in _AT_THE_START):
        spot = error.context_mark
    where = mark(spot.line, spot.column) if spot is not None else mark(0, 0)
    character = where.text[where.column - 1 : where.column]
    if "cannot start any token" in said:
        if character == "\t":
            return Problem("yaml_tab", "", "a tab stands where YAML wants spaces", "indent with spaces", where)
        hint = f"quote a text that begins with `{character}`"
        return Problem("yaml_syntax", "", f"a value cannot begin with `{character}`", hint, where)
    for part, message, hint in _PLAIN_WORDS:
        if part in said:
            return Problem("yaml_syntax", "", message, hint, where)
    return Problem("yaml_syntax", "", f"not valid YAML: {said}", "", where)
