"""What keeps secrets out of everything that is written or shown: one redactor for the whole process.

It knows values (every `${env:NAME}` that was revealed, the environment's own tokens, passwords found in a recipe), in
the forms in which they come back: as they are, percent-encoded, escaped as in JSON, Python and HTML, as base64 and hex.
It knows patterns too: logins in URLs, assignments to names of secrets, bearer headers. Every writer and every line to a
terminal passes here last, so that no caller has to think of it.
"""

import base64
import html
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, final
from urllib.parse import quote, quote_plus, unquote, urlsplit

HIDDEN = "[redacted]"
SHORTEST = 4
"""Characters of the shortest value that is looked for; a shorter one would be found in every other word."""
CERTAIN = 8
"""Characters from which a value does not stand in a text by chance."""

# --- names of secrets -------------------------------------------------------------------------------------------------

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_SECRETS = (
    "password", "passwords", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "credential",
    "credentials", "authorization", "bearer", "apikey", "apitoken", "accesstoken", "authtoken",
    "jwt", "cookie", "cookies",
)  # fmt: skip
_LIKELY = ("auth", "authentication", "pass", "pat")
_POSSIBLE = ("key", "keys", "login", "session", "pin")
"""Names that hold secrets and other things: what stands there decides."""
_OF_KEYS = ("api", "access", "secret", "private", "signing", "encryption", "account", "auth")
_OF_TOKENIZERS = (
    "pad", "eos", "bos", "unk", "mask", "sep", "cls", "im", "end", "start", "begin", "stop", "special", "text", "audio",
    "speech", "image", "video", "blank", "next", "first", "last", "think", "turn", "role", "user", "assistant",
    "system", "tool", "prompt", "answer", "delay", "fill", "filler", "separator", "silence", "word", "sub", "added",
    "new", "per",
    "max", "min", "num", "each", "one",
)  # fmt: skip
"""Words before `token` that speak of a vocabulary."""
_SIGNED = ("key", "sig", "signature", "x-amz-signature", "x-amz-security-token", "x-goog-signature")
"""Parameters of a URL that open it to whoever holds it."""


def names_secret(name: str) -> bool:
    """Whether a key, option or variable of this `name` holds a secret: `api_key`, `judgeToken`, not `pad_token`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words:
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    if last in ("token", "tokens"):
        return before not in _OF_TOKENIZERS if last == "token" else before in ("api", "access", "auth", "bearer")
    return last in _SECRETS or (last in ("key", "keys") and before in _OF_KEYS)


def may_hold_secret(name: str, value: str) -> bool:
    """Whether `value` looks like a secret under a name that holds such and others: `auth`, `openai_key`, `sort_key`.

    Anything but a plain word (`basic`) under `auth` and `pass`; under a key what a machine drew: long, without blanks,
    letters and digits mixed all over.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    last, drawn = words[-1] if words else "", value.strip().rpartition(" ")[2]
    if last in _LIKELY and len(drawn) >= CERTAIN and not drawn.isalpha():
        return any(map(str.isalpha, drawn))
    return last in _LIKELY + _POSSIBLE and bool(_DRAWN.fullmatch(drawn)) and len(_SWITCHES.findall(drawn)) >= 3


def holds_known_format(value: str) -> bool:
    """Whether a key or token in one of the common forms stands in a text."""
    return bool(_FORMATS.search(value))


_DRAWN = re.compile(r"[A-Za-z0-9_+=~-]{16,}")
_SWITCHES = re.compile(r"(?<=[A-Za-z])[0-9]|(?<=[0-9])[A-Za-z]")

# --- patterns ---------------------------------------------------------------------------------------------------------

_LOGIN = re.compile(r"\b([a-z][a-z0-9+.-]{0,24}://)([^\s/?#\"'<>@:]{0,256}):([^\s/?#\"'<>]{1,512})@", re.IGNORECASE)
_BARE_LOGIN = re.compile(r"\b(https?://)([^\s/?#\"'<>@:]{1,512})@", re.IGNORECASE)
_LOOSE_LOGIN = re.compile(
    r"\b([a-z][a-z0-9+.-]{0,24}://)([^\s/?#\"'<>@:]{0,256}):(?!\d+(?:[/?#]|\Z))([^\s\"'<>@]{1,512})@", re.IGNORECASE
)
"""A password with a slash in it, which belongs percent-encoded. All have bounds, or a long text takes hours."""
_QUERY = re.compile(r"([?&;#])([\w.-]+)=([^&;\s\"'<>#]+)")
_TELLING = re.compile(r"key|token|pass|pwd|secret|credential|auth|bearer|jwt|cookie|session|login", re.IGNORECASE)
_FLAG = re.compile(r"(?<![\w-])--([A-Za-z][\w-]{1,80})(\s+)(?![-\[])(\S+)")
_ASSIGNED = re.compile(
    r"""(?<![\w.])(?<![\w.]-)(?P<quote>\\?["']?)(?P<name>\w[\w.-]{2,200})(?P=quote)(?P<sign>\s*[=:]\s*)"""
    r"""(?!["']?\$\{env:)(?P<value>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|(?:Bearer|Basic|Token)\s+[^\s"',;]+|[^\s"',;&(){}\[\]\\]+)"""
)
_BEARER = re.compile(r"\b(Bearer|bearer|BEARER|Basic)\s+(?=[\w.~+/=-]{0,512}\d)[\w.~+/=-]{8,}")
_FORMATS = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{20,}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16}|xox[abpr]-[\w-]{10,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----)){0,16384}-----END [A-Z ]{0,40}PRIVATE KEY-----"
)
_SPELT = ("authorization", "password", "apikey")
"""Names that stand before a colon in no sentence."""
_PLAIN = ("none", "null", "true", "false", "str", "string", "text")


def url_secrets(text: str) -> Iterator[str]:
    """Passwords and keys that URLs in `text` carry, as written."""
    for pattern in (_LOGIN, _LOOSE_LOGIN):
        yield from (match[3] for match in pattern.finditer(text))
    yield from (match[2] for match in _BARE_LOGIN.finditer(text))
    if "://" in text:
        yield from (match[3] for match in _QUERY.finditer(text) if _is_signed(match[2]) and not _is_open(match[3]))


def hide_patterns(text: str, hide: Callable[[str], str] = lambda _: HIDDEN) -> str:
    """`text` with everything that looks like a secret replaced by what `hide` makes of it."""
    if "://" in text:
        text = _LOGIN.sub(lambda m: f"{m[1]}{m[2]}:{hide(m[3])}@", text)
        text = _LOOSE_LOGIN.sub(lambda m: m[0] if HIDDEN in m[3] else f"{m[1]}{m[2]}:{hide(m[3])}@", text)
        text = _BARE_LOGIN.sub(lambda m: m[0] if HIDDEN in m[2] else f"{m[1]}{hide(m[2])}@", text)
    if "=" in text and ("?" in text or "&" in text or "#" in text):
        text = _QUERY.sub(lambda m: f"{m[1]}{m[2]}={hide(m[3])}" if _is_signed(m[2]) else m[0], text)
    if _TELLING.search(text):
        text = _BEARER.sub(lambda m: f"{m[1]} {hide(m[0][len(m[1]) + 1 :])}", text)
        text = _ASSIGNED.sub(lambda m: _unassigned(m, hide), text)
        text = _FLAG.sub(lambda m: f"--{m[1]}{m[2]}{hide(m[3])}" if names_secret(m[1]) else m[0], text)
    return _FORMATS.sub(lambda m: hide(m[0]), text)


def _is_signed(name: str) -> bool:
    return name.lower() in _SIGNED or names_secret(name)


def _is_open(value: str) -> bool:
    """Whether a value is a placeholder or a word of the language, nothing to hide."""
    return HIDDEN in value or "${env:" in value or value.lower() in _PLAIN or set(value) <= set("*.<>")


def _unassigned(match: re.Match[str], hide: Callable[[str], str]) -> str:
    name, sign, value = match["name"].rpartition(".")[2], match["sign"], match["value"]
    inner = value[1:-1] if value[:1] in ("'", '"') else value
    quoted = bool(match["quote"]) or inner != value
    # `The secret: patience` is a sentence, `api_key: abc` is not; `"token": 5` of a JSON text must stay JSON.
    spoken = ":" in sign and not quoted and name.isalpha() and name.lower() not in _SPELT
    number = bool(match["quote"]) and inner == value
    secret = names_secret(name) or may_hold_secret(name, inner)
    if spoken or number or not inner or value.startswith("//") or _is_open(inner) or not secret:
        return match[0]
    return match[0][: match.start("value") - match.start()] + value.replace(inner, hide(inner))


# --- values -----------------------------------------------------------------------------------------------------------


@final
class Redactor:
    """Values that must not be seen, and what stands in their place."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        """Form in lower case -> what stands for it."""
        self._spelt: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._in_names: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def learn(self, value: str, shown: str = HIDDEN) -> None:
        """From now on `shown` stands for `value` in every form; one shorter than `SHORTEST` is left alone."""
        found = {form for part in _parts(value) for form in _forms(part) if len(form.strip()) >= SHORTEST}
        with self._lock:
            fresh = {form: shown for form in found if form.lower() not in self._shown and form != shown}
            if fresh:
                self._shown = {**self._shown, **{form.lower(): shown for form in fresh}}
                # Of a few letters the lower-case form is longer: both are looked for.
                self._spelt = self._spelt | set(fresh) | {form.lower() for form in fresh}
                self._pattern = _any_of(self._spelt)
                self._in_names = _any_of(form for form in self._spelt if not _is_weak(form))

    def learn_environment(self, environ: Mapping[str, str]) -> None:
        """Take the values of variables whose names say that they are secrets, e.g. HF_TOKEN."""
        for name, value in environ.items():
            if len(value) >= CERTAIN and name not in ("PWD", "OLDPWD") and names_secret(name):
                self.learn(value, f"${{env:{name}}}")

    def forget(self) -> None:
        """Know nothing any more; for tests."""
        with self._lock:
            self._shown, self._spelt, self._pattern, self._in_names = {}, frozenset(), None, None

    def values(self, text: str) -> str:
        """`text` with what stands for them in place of known values."""
        return self._replaced(self._pattern, text)

    def _replaced(self, pattern: re.Pattern[str] | None, text: str) -> str:
        shown, lower = self._shown, text.lower()
        if pattern is None or not any(form in lower for form in shown):  # much quicker than the pattern
            return text
        return pattern.sub(lambda match: shown.get(match[0].lower(), HIDDEN), text)

    def cover(self, text: str) -> str:
        """`text` with `*` for every character of a known value, so that columns stay."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(lambda match: re.sub(r"\S", "*", match[0]), text)

    def text(self, text: str) -> str:
        """`text` as it may be written and shown."""
        return hide_patterns(self.values(text))

    def tree(self, value: Any) -> Any:
        """JSON-like `value` with every text and key in it as it may be written."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._name(key) if isinstance(key, str) else key: self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value

    def _name(self, key: str) -> str:
        """A field's or metric's name; what is no more than a word or a number would take names apart, and stays."""
        return hide_patterns(self._replaced(self._in_names, key))


REDACTOR = Redactor()
"""That of this process; worker processes make their own from the plan and the environment they inherit."""


def _any_of(forms: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(map(_anywhere, longest_first)), re.IGNORECASE) if longest_first else None


def _is_weak(form: str) -> bool:
    """Whether a value is a short word or number, as `answer` and `0.25` are."""
    return len(form) < CERTAIN and (form.isalpha() or bool(re.fullmatch(r"[\d.+-]+", form)))


def _anywhere(form: str) -> str:
    """A pattern of a form; a short one inside a longer word (a checksum) stands there by chance."""
    exact = re.escape(form)
    return exact if len(form) >= CERTAIN else f"(?<![a-z0-9]){exact}|{exact}(?![a-z0-9])"


def _parts(value: str) -> Iterator[str]:
    """A value and what of it may be met alone: its lines, the password of a URL."""
    yield value
    yield from (unicodedata.normalize(form, value) for form in ("NFC", "NFD", "NFKC"))
    yield value.strip()
    yield " ".join(value.split())
    yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= CERTAIN)
    yield from (part for part in url_secrets(value) if len(part) >= SHORTEST)
    if "://" in value:
        try:
            password = urlsplit(value).password
        except ValueError:  # no URL after all
            password = None
        if password:
            yield unquote(password)


def _forms(value: str) -> Iterator[str]:
    """How a value looks after it went through a URL, JSON, repr, HTML or base64."""
    yield value
    for encoded in (quote(value), quote(value, safe=""), quote_plus(value)):
        yield encoded
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), encoded)
    for text in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]):
        yield text
        yield json.dumps(text)[1:-1]  # as in an error message inside JSON
        yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield value.encode("ascii", "backslashreplace").decode()
    yield html.escape(value)
    yield html.escape(value).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")  # as Jinja writes it
    data = value.encode("utf-8", "surrogatepass")
    yield repr(data)[2:-1]
    yield data.hex()
    if len(data) >= SHORTEST:
        yield from _in_base64(data)


def _in_base64(data: bytes) -> Iterator[str]:
    """Base64 of `data`, alone and as a part of something longer (`user:password`), in both alphabets."""
    for offset in range(3):
        first, last = -(-offset * 8 // 6), (offset + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            form = encode(bytes(offset) + data).decode()[first:]
            yield form
            if len(form[: last - first]) > SHORTEST:
                yield form[: last - first]
