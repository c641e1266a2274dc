"""The page of the admin API in a real browser: Chromium, driven as a person would use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect, sync_playwright

from gateway.contract import AppName
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from tests.support.gate import TOKEN
from tests.support.page import PageServer, page_server

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'&lt;"
PHONE: ViewportSize = {"width": 360, "height": 740}
DESK: ViewportSize = {"width": 1280, "height": 900}
WIDTHS = (360, 700, 1088, 1100, 1280)
# What is beyond the right side of the list.
TOO_WIDE = """() => {
  const edge = (node) => node.getBoundingClientRect().right;
  return [...document.querySelectorAll(".models *")]
    .filter((node) => edge(node) > edge(document.querySelector(".models")))
    .filter((node) => node.checkVisibility() && !node.closest(".unseen, thead"))
    .map((node) => node.outerHTML.slice(0, 80));
}"""
# Of every element with text of its own: its text, and the contrast with what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
  const channels = (color) => color.match(/[0-9.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .filter((node) => node.checkVisibility() && !node.closest(".unseen, .skip, svg"))
    .map((node) => {
      const both = [luminance(getComputedStyle(node).color), luminance(behind(node))];
      return [node.textContent.trim().slice(0, 40), (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05)];
    });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium; tests/system.sh installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[PageServer]:
    with page_server(tmp_path) as served:
        yield served


class Looking:
    """A browser's page that shows a server's, and what went wrong in it."""

    def __init__(self, browser: Browser, served: PageServer) -> None:
        self.page: Page = browser.new_context(viewport=DESK).new_page()
        self.page.set_default_timeout(10_000)
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(served.url)
        expect(self.page.locator("#connection")).to_have_text("Live")
        self.page.evaluate("window.isSame = true")

    def _note(self, kind: str, text: str) -> None:
        # That a request was refused, or not answered, is noted by the browser itself.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.faults.append(text)

    def order(self, name: str) -> Locator:
        return self.page.locator(f"[data-order={name}]")

    def walk_to(self, name: str) -> None:
        """Go to an order with the Tab key alone."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.dataset.order") == name:
                return
        pytest.fail(f"{name} cannot be reached by keyboard")


@pytest.fixture
def looking(browser: Browser, served: PageServer) -> Iterator[Looking]:
    looking = Looking(browser, served)
    yield looking
    assert looking.faults == []
    assert looking.hosts == {urlsplit(served.url).netloc}
    assert looking.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    looking.page.context.close()


def test_a_rollout_is_seen_as_it_goes_and_promoted_by_keyboard(served: PageServer, looking: Looking) -> None:
    page = looking.page
    served.begin_rollout()
    served.answer("v1", 90)
    served.answer("v2", 30)
    expect(page.locator("[aria-current=step]")).to_contain_text("10\u202f%")
    expect(page.locator(".checks")).to_contain_text("canary answered 30 of at least 10 calls")
    served.answer("v2", 30)
    expect(page.locator(".checks")).to_contain_text("canary answered 60 of at least 10 calls")
    expect(page.locator("#announcer")).to_contain_text("step 1 of 2")
    looking.walk_to("promote")
    page.keyboard.press("Enter")
    expect(page.locator("#dialog-text")).to_contain_text("weight 50 %, for 60 s")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("[aria-current=step]")).to_contain_text("50\u202f%")
    expect(page.locator("#dialog")).to_be_hidden()
    # Focus is where it was, and nothing was loaded anew.
    assert page.evaluate("[document.activeElement.dataset.order, window.isSame]") == ["promote", True]
    assert page.evaluate("sessionStorage.length") == 1
    page.locator(".history > summary").click()
    expect(page.locator(".events li").first).to_contain_text("step 2 of 2")
    # What comes within half a second is one unit, and one alone ends no rollout.
    for _ in range(16):
        served.answer("v1", 90)
        served.answer("v2", 40, status=500)
    expect(page.locator(".events li").first).to_contain_text("AnalysisFailed")
    expect(page.locator(".history")).to_have_attribute("open", "")
    looking.order("promote").click(force=True)
    expect(page.locator(".refusal")).to_have_text(
        "Not now: the rollout is over: retry it, or change the config."
    )
    looking.order("retry").click()
    page.keyboard.press("Enter")
    expect(page.locator(".rollout h3")).to_contain_text("Rollout 2")
    page.locator("#forget").click()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_wrong_token_changes_nothing_and_the_page_says_why(served: PageServer, looking: Looking) -> None:
    page = looking.page
    served.begin_rollout()
    looking.order("abort").click()
    page.keyboard.type("a hunch")
    page.locator("#token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#dialog-error")).to_contain_text("the token is wrong")
    expect(page.locator("#token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0
    assert served.world.position()[2] == 10
    page.locator("#token").fill("")
    page.keyboard.press("Enter")
    expect(page.locator("#dialog-error")).to_contain_text("`kitserve token` prints")
    page.locator("#token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator(".rollout > .message")).to_have_text("a hunch")
    assert served.world.position()[2] == 0


def test_what_kits_are_called_is_text(served: PageServer, looking: Looking) -> None:
    page = looking.page
    version = VersionStatus(
        HOSTILE,
        f"sha256:{HOSTILE}",
        HOSTILE,
        AppName(HOSTILE),
        "stable",
        100,
        ModelState.READY,
        1,
        HOSTILE,
        HOSTILE,
    )
    served.others = (ModelStatus(HOSTILE, ModelState.FAILED, HOSTILE, (version,)),)
    served.describe(license=HOSTILE, about=HOSTILE)
    expect(page.locator(".title").nth(1)).to_have_text(HOSTILE)
    expect(page.locator("dl.facts").first).to_contain_text(HOSTILE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator("img, bdi script, [onerror]").count() == 0
    assert "hacked" not in page.title()


def test_it_can_be_read_in_the_dark_on_a_phone_and_without_motion(
    served: PageServer, looking: Looking
) -> None:
    page = looking.page
    served.others = tuple(ModelStatus(f"model-{state.value}", state, "a message", ()) for state in ModelState)
    served.begin_rollout()
    served.answer("v1", 90)
    served.answer("v2", 40)
    expect(page.locator(".model")).to_have_count(6)
    expect(page.locator(".checks")).to_contain_text("canary answered 40")
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(TOO_WIDE) == []
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 60
        assert [text for text in contrasts if text[1] < 4.5] == []
    assert len(papers) == 2
    assert page.evaluate("document.getAnimations().length") == 0
    for landmark in ("banner", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1


def test_without_models_and_without_a_connection_it_says_so(
    tmp_path: Path, served: PageServer, looking: Looking
) -> None:
    page = looking.page
    served.page.stop()
    served.server.stop()
    expect(page.locator("#banner")).to_contain_text("What is below is of")
    expect(page.locator("#connection")).to_have_text("Not connected")
    expect(page.locator("#announcer")).to_contain_text("what is shown is of before")
    looking.order("rollback").click(force=True)
    expect(page.locator(".refusal")).to_have_text("Not now: there is no connection to Kitserve.")
    (tmp_path / "other").mkdir()
    with page_server(tmp_path / "other", served.port) as other:
        other.begin_rollout()
        # By then it may have come back by itself.
        page.evaluate("document.getElementById('again').click()")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("[aria-current=step]")).to_have_count(1)
        other.overview.status = Status(2)
        expect(page.locator(".empty")).to_contain_text("No models are served")
