"""Reads a written page back, the way a browser would, without one."""

from html.parser import HTMLParser
from pathlib import Path

Attributes = dict[str, str | None]
VOID = frozenset({"br", "input", "link", "meta", "path", "line", "circle", "rect"})


class Page(HTMLParser):
    """Tags with attributes, visible text, table cells by row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, Attributes]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.cells: dict[tuple[str, str], dict[str, Attributes]] = {}
        self._row: dict[str, Attributes] | None = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr" and attributes.get("data-metric"):
            key = (attributes.get("data-run") or attributes.get("data-split") or "", attributes["data-metric"] or "")
            self._row = self.cells.setdefault(key, {})
        if tag == "td" and self._row is not None and attributes.get("data-label"):
            self._row[attributes["data-label"] or ""] = attributes

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += f"{data} "

    def all(self, tag: str) -> list[Attributes]:
        """Attributes of every `tag`."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        """Visible text with single blanks."""
        return " ".join(self.text.split())
