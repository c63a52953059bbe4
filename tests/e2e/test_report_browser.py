"""The page in a real browser, offline: it shows, it plays, it is silent on the console and on the network."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.comparison import write_comparison
from wavalign.engine.report.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as BrowserPage

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--mute-audio",
)  # fmt: skip
Scheme = Literal["light", "dark"]


@dataclass
class Heard:
    """What a page said or asked for while it was open."""

    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A headless Chromium of this machine."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the synthetic run."""
    return write_report(synthetic.write_run(tmp_path_factory.mktemp("report") / "run"))


def opened(
    browser: "Browser", path: Path, *, width: int = 1280, scheme: Scheme = "light"
) -> tuple["BrowserPage", Heard]:
    """Open `path` without a network and listen."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, heard = context.new_page(), Heard()
    page.on("console", lambda message: heard.console.append(message.text))
    page.on("pageerror", lambda error: heard.errors.append(str(error)))
    page.on("request", lambda request: heard.requests.append(request.url))
    page.goto(path.as_uri())
    return page, heard


def until(page: "BrowserPage", condition: str) -> None:
    """Wait until `condition` holds; the page's policy forbids playwright's own way of waiting, which evaluates text."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"never true: {condition}")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_offline_and_shows(browser: "Browser", report: Path, width: int, scheme: Scheme) -> None:
    page, heard = opened(browser, report, width=width, scheme=scheme)
    pixels = np.asarray(image.open(io.BytesIO(page.screenshot())).convert("L"), dtype=np.float64)
    until(page, "[...document.querySelectorAll('audio')].every(a => a.readyState >= 1)")
    assert heard.console == []
    assert heard.errors == []
    assert [url for url in heard.requests if not url.startswith("data:")] == [report.as_uri()]
    assert pixels.std() > 8, "the picture is blank"
    assert (float(pixels.mean()) > 128) is (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    page.context.close()


def test_sound_can_be_played_and_sought(browser: "Browser", report: Path) -> None:
    page, heard = opened(browser, report)
    until(page, "[...document.querySelectorAll('audio')].every(a => a.readyState >= 1)")
    durations = page.evaluate("[...document.querySelectorAll('audio')].map(a => a.duration)")
    assert durations == pytest.approx([1.2, 2.5, 1.5, 1.9, 1.2, 1.5, 1.9], abs=0.01)
    first, second = page.locator(".player button").nth(0), page.locator(".player button").nth(1)
    first.click()
    until(page, "document.querySelectorAll('audio')[0].currentTime > 0")
    assert first.get_attribute("aria-pressed") == "true"
    second.click()
    until(page, "document.querySelectorAll('audio')[1].currentTime > 0")
    assert page.evaluate("document.querySelectorAll('audio')[0].paused"), "two sounds play at once"
    page.locator(".player input").nth(3).fill("1")
    assert page.evaluate("document.querySelectorAll('audio')[3].currentTime") == pytest.approx(1.0)
    assert heard.errors == []
    page.context.close()


def test_chart_tells_its_values_to_keyboard_and_pointer(browser: "Browser", report: Path) -> None:
    page, heard = opened(browser, report)
    figure = page.locator("figure", has_text="Learning rate").first
    value, at = figure.locator("output"), figure.locator(".at")
    assert (value.inner_text(), at.inner_text()) == ("1.00e-4", "step 100")
    figure.locator("svg").press("Home")
    assert (value.inner_text(), at.inner_text()) == ("1.00e-5", "step 1")
    figure.locator("svg").press("ArrowRight")
    assert (value.inner_text(), at.inner_text()) == ("2.00e-5", "step 2")
    figure.locator("svg").hover(position={"x": 180, "y": 60})
    assert 40 <= int(at.inner_text().removeprefix("step ")) <= 60
    assert heard.errors == []
    page.context.close()


def test_page_is_readable_without_script(browser: "Browser", report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("audio").first.is_visible()
    assert page.locator("svg.chart").first.is_visible()
    context.close()


def test_comparison_opens_offline(browser: "Browser", tmp_path: Path) -> None:
    folders = [synthetic.write_run(tmp_path / f"seed{seed}", seed=seed) for seed in (1, 2)]
    path = write_comparison(folders, tmp_path / "comparison.html")
    page, heard = opened(browser, path, width=390)
    assert (heard.console, heard.errors) == ([], [])
    assert [url for url in heard.requests if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of nine dialogues, two of them suspicious."""
    folder = synthetic.write_run(tmp_path_factory.mktemp("many") / "run")
    lines = []
    for item in range(9):
        for step in (0, 100):
            values = {"text_right": float(step > 0), "heard_right": float(step > 0 and item != 4)}
            line = synthetic.outcome(step, item, f"said {item}", values=values)
            lines.append(line | {"finished": item != 7, "metadata": {}, "audio": f"audio/a0-{step}.wav"})
    synthetic.write_lines(folder / "rollouts.jsonl", lines)
    return write_report(folder)


def shown(page: "BrowserPage") -> list[str]:
    found: list[str] = page.evaluate("[...document.querySelectorAll('.sample:not([hidden]) h3')].map(h => h.innerText)")
    return found


def test_samples_can_be_filtered_by_keyboard_and_pointer(browser: "Browser", many: Path) -> None:
    page, heard = opened(browser, many)
    assert shown(page) == [f"question {item}" for item in (4, 7, 0, 1, 2, 3)], "what is odd stands first"
    assert page.locator(".shown").inner_text() == "6 of 9 shown"
    page.get_by_label("suspicious 2").check()
    assert shown(page) == ["question 4", "question 7"]
    assert page.locator(".more").is_hidden()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "wrong"
    assert shown(page) == ["question 4"]
    page.get_by_label("all right 8").check()
    assert len(shown(page)) == 6
    page.get_by_role("button", name="Show 2 more").click()
    assert len(shown(page)) == 8
    assert page.evaluate("document.activeElement.querySelector('h3').innerText") == "question 6"
    assert heard.errors == []
    page.context.close()


def test_a_sample_is_seen_within_two_screens_of_a_phone(browser: "Browser", many: Path) -> None:
    page, _ = opened(browser, many, width=390)
    assert page.evaluate("document.querySelector('.sample').getBoundingClientRect().top") < 2 * 900
    page.context.close()


def test_every_sample_is_there_without_script(browser: "Browser", many: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(many.as_uri())
    assert page.locator(".sample:visible").count() == 9
    assert page.locator(".filter").is_hidden()
    context.close()


def test_a_sound_that_is_filtered_away_falls_silent(browser: "Browser", many: Path) -> None:
    page, _ = opened(browser, many)
    page.get_by_label("all right 8").check()
    page.locator(".sample:not([hidden]) .player button").first.click()
    until(page, "[...document.querySelectorAll('audio')].some(a => a.currentTime > 0)")
    page.get_by_label("something wrong 1").check()
    assert page.evaluate("[...document.querySelectorAll('audio')].every(a => a.paused)")
    page.context.close()
