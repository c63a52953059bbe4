"""Where chat completions are asked for: `https://host`, `.../v1` and `.../chat/completions` all name one address."""

from urllib.parse import urlsplit

PATH = "/chat/completions"
ACCEPTED = "`https://HOST`, `https://HOST/v1`, `https://HOST/any/path` or the whole `https://HOST/v1/chat/completions`"


def completions_url(url: str) -> str:
    """The whole address of a server's chat completions; raises ValueError, in words, for what names none.

    A bare host stands for its `/v1`; a path is taken as it is and completed by `/chat/completions` where it lacks it.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f"url: {error}; write {ACCEPTED}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url begins with https:// (or http://) and a host; write {ACCEPTED}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url holds a login; the key belongs into `api_key`")
    if parts.query or parts.fragment:
        raise ValueError(f"url holds `?` or `#`; write {ACCEPTED}")
    path = parts.path.rstrip("/")
    if path.endswith(("/completions", "/responses", "/messages")) and not path.endswith(PATH):
        raise ValueError(f"url ends in {path.rpartition('/')[2]}, and chat completions are asked for; write {ACCEPTED}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    base = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}"
    return f"{base}{path or '/v1'}" if path.endswith(PATH) else f"{base}{path or '/v1'}{PATH}"
