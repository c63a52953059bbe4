"""Secrets: `${env:NAME}` stands for a value of the environment, and only the component that uses it ever sees it.

The placeholder is what validation, the plan, dumps and fingerprints hold. A component calls `reveal` with its own
option at the moment it needs the value; an unset variable is a problem then, and not before.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, final

from wavalign.errors import PreflightError, Problem, Where
from wavalign.redaction import (
    CERTAIN,
    HIDDEN,
    REDACTOR,
    SHORTEST,
    holds_known_format,
    may_hold_secret,
    names_secret,
    url_secrets,
)
from wavalign.schema.composer import Path, dotted

PLACEHOLDER = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}\Z")
_BEGINNING = "${env:"
_BLANK_LOGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@:]*:([^/?#]*\s[^/?#]*)@")
"""A login in a URL with a blank in its password, which belongs percent-encoded."""
_NAMED_BY_PEOPLE = ("rewards", "metrics", "terms", "evaluation")
"""Sections whose keys are names that a person chose."""


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
    if not environ.get(name, "").strip():
        raise PreflightError(f"the environment variable {name} is not set", hint=f"export {name}=... before the run")
    if len(environ[name].strip()) < SHORTEST:
        raise PreflightError(
            f"the environment variable {name} holds fewer than {SHORTEST} characters, too few to be kept out of logs",
            hint="`${env:...}` is for secrets; write anything else into the recipe itself",
        )
    remember([name], environ)
    return Secret(environ[name], name)


def remember(names: Iterable[str], environ: Mapping[str, str]) -> None:
    """Let the process's redactor know what the variables `names` hold, before anybody uses it."""
    for name in names:
        REDACTOR.learn(environ.get(name, ""), f"${{env:{name}}}")


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


def environment_problems(tree: object, marks: Mapping[Path, Where], environ: Mapping[str, str]) -> list[Problem]:
    """Placeholders that are misspelt or only a part of a text, and secrets that a recipe spells out.

    What is found spelt out is hidden from now on; no problem repeats it.
    """
    used = secret_names(tree)
    remember(used, environ)
    in_clear = {environ[name]: name for name in used if len(environ.get(name, "")) >= CERTAIN}
    found: list[Problem] = []
    scalars = list(_scalars(tree, ()))
    components = {path[:-1] for path, _ in scalars if path and path[-1] == "type"}
    for path, value in scalars:
        problem = _problem(value, _secret_key(path, value, components), in_clear)
        if problem is not None:
            found.append(Problem("bad_secret", dotted(path), *problem, marks[path]))
    return found


def _problem(value: str | float, key: str | None, in_clear: Mapping[str, str]) -> tuple[str, str] | None:
    """What is wrong with one value, and what to do; None when nothing is."""
    if secret_name(value) is not None:
        return None
    if key is not None and value != "":
        REDACTOR.learn(str(value))
        message = f"`{key}` holds a secret, and a recipe is no place for one"
        name = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+", "_", key).upper()
        return message, f"export {name}=... before the run, and write `{key}: ${{env:{name}}}`"
    if not isinstance(value, str):
        return None
    if _BEGINNING in value:
        message = "`${env:NAME}` must be the whole value, with NAME of letters, digits and _"
        return message, "put the whole text into the variable"
    if holds_known_format(value):
        REDACTOR.learn(value)
        message = "the value has the form of a key or token, and a recipe is no place for one"
        return message, "export it under a name before the run, and write `${env:NAME}` for the whole value"
    blank = _BLANK_LOGIN.match(value)
    carried = [part for part in (*url_secrets(value), blank[1] if blank else "") if part]
    if carried:
        for part in (value, *carried):
            REDACTOR.learn(part)
        message = "the address carries a login or a key, which plans and logs would keep"
        return message, "leave it out (netrc, AWS_... and such say who you are), or write `${env:NAME}` for all of it"
    name = next((name for secret, name in in_clear.items() if secret in value), "")
    if name:
        return f"it spells out what the variable {name} holds, a secret of this recipe", f"write `${{env:{name}}}`"
    return None


def _secret_key(path: Path, value: str | float, components: Container[Path]) -> str | None:
    """The key, above a value or further up, that says that it is a secret; None where none does."""
    for index, part in enumerate(path):
        chosen = index > 0 and path[index - 1] in _NAMED_BY_PEOPLE  # a reward may be called anything
        named = isinstance(part, str) and not chosen and path[: index + 1] not in components
        if isinstance(part, str) and named and _holds_secret(part, value):
            return part
    return None


def _holds_secret(name: str, value: str | float) -> bool:
    if isinstance(value, str) and may_hold_secret(name, value):
        return True
    return names_secret(name) and not (name.lower().endswith("token") and _is_of_vocabulary(value))


def _is_of_vocabulary(value: str | float) -> bool:
    """Whether something under `..._token` is a token of a vocabulary (`<pad>`, `[SEP]`, an id) or a kind of them."""
    if not isinstance(value, str) or len(value) < SHORTEST:
        return True
    return value[0] + value[-1] in ("<>", "[]", "||") or value in ("text", "audio", "marks")


def _shown(key: str, value: Any) -> Any:
    plain = isinstance(value, str) and not isinstance(value, Secret) and secret_name(value) is None
    return HIDDEN if plain and value and _holds_secret(key, value) else redact(value)


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    yield from ((at, item) for at, item in _scalars(value, path) if isinstance(item, str))


def _scalars(value: object, path: Path) -> Iterator[tuple[Path, str | float]]:
    """Texts and numbers."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _scalars(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _scalars(item, (*path, index))
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value
