"""Secrets: `${env:NAME}` stands for a value of the environment, and only the component that uses it ever sees it.

The placeholder is what validation, the plan, dumps and fingerprints hold. A component calls `reveal` with its own
option at the moment it needs the value; an unset variable is a problem then, and not before.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from wavalign.errors import PreflightError, Problem, Where
from wavalign.schema.composer import Path, dotted

PLACEHOLDER = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}\Z")
_BEGINNING = "${env:"
_SENSITIVE = re.compile(
    r"(?:^|.*[_-])(?:api_?key|password|passwd|secret|credentials?|(?:access|auth|bearer|hf)_token|authorization)\Z",
    re.IGNORECASE,
)
HIDDEN = "[redacted]"


@final
class Secret(str):
    """A value of the environment: a text to whoever uses it, its placeholder to whoever prints its repr."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, value: str, name: str) -> "Secret":
        """`name` is the variable it comes from."""
        secret = super().__new__(cls, value)
        secret.name = name
        return secret

    @property
    def placeholder(self) -> str:
        """`${env:NAME}`."""
        return f"${{env:{self.name}}}"

    def __repr__(self) -> str:
        return repr(self.placeholder)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """A copy or pickle holds the placeholder."""
        return (str, (self.placeholder,))


def secret_name(value: object) -> str | None:
    """The variable a placeholder names, None for anything else."""
    match = PLACEHOLDER.match(value) if isinstance(value, str) else None
    return match.group(1) if match else None


def secret_names(tree: object) -> frozenset[str]:
    """All variables that placeholders in `tree` name."""
    return frozenset(name for _, value in _texts(tree, ()) if (name := secret_name(value)) is not None)


def reveal(value: str, environ: Mapping[str, str]) -> str:
    """`value` itself, or what its placeholder stands for; raises PreflightError when the variable is not set."""
    name = secret_name(value)
    if name is None:
        return value
    if not environ.get(name):
        raise PreflightError(f"the environment variable {name} is not set", hint=f"export {name}=... before the run")
    return Secret(environ[name], name)


def resolve_secrets(tree: Any, environ: Mapping[str, str]) -> Any:
    """A copy of `tree` with every placeholder revealed; raises PreflightError naming the variable that is not set."""
    if isinstance(tree, Mapping):
        return {key: resolve_secrets(item, environ) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(resolve_secrets(item, environ) for item in tree)
    return reveal(tree, environ) if isinstance(tree, str) else tree


def redact(tree: Any) -> Any:
    """A copy of `tree` fit to be shown: secrets become placeholders, texts under keys like `api_key` are hidden."""
    if isinstance(tree, Mapping):
        return {key: _shown(str(key), item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return [redact(item) for item in tree]
    return tree.placeholder if isinstance(tree, Secret) else tree


def redact_text(text: str, names: Iterable[str], environ: Mapping[str, str]) -> str:
    """`text`, such as a log line, with the values of the variables `names` put back to placeholders, longest first."""
    known = sorted(((environ[name], name) for name in names if environ.get(name)), key=lambda pair: -len(pair[0]))
    for value, name in known:
        text = text.replace(value, f"${{env:{name}}}")
    return text


def environment_problems(tree: object, marks: Mapping[Path, Where]) -> list[Problem]:
    """Placeholders that are misspelt or only a part of a text."""
    found: list[Problem] = []
    for path, value in _texts(tree, ()):
        if _BEGINNING in value and secret_name(value) is None:
            message = "`${env:NAME}` must be the whole value, with NAME of letters, digits and _"
            hint = "put the whole text into the variable"
            found.append(Problem("bad_secret", dotted(path), message, hint, marks[path]))
    return found


def _shown(key: str, value: Any) -> Any:
    plain = isinstance(value, str) and not isinstance(value, Secret) and secret_name(value) is None
    return HIDDEN if plain and value and _SENSITIVE.match(key) else redact(value)


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
    elif isinstance(value, str):
        yield path, value
