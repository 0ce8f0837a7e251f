"""The page in a real browser: what it asks for, how it is used by mouse and keyboard, without script, on paper."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxviz.auditing.report.page import Page
from onnxviz.auditing.report.write import write
from tests.auditing.report.samples import album, audited, comparison, hostile, laid

AXE = Path(__file__).resolve().parents[3] / ".venv-node" / "web" / "node_modules" / "axe-core" / "axe.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = os.environ.get("ONNXVIZ_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium); ONNXVIZ_BROWSER may name one")
    sync_api = pytest.importorskip("playwright.sync_api", reason="tools/test.py installs playwright")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Callable[..., Path]:
    """Writes a page once, however many tests look at it."""
    done: dict[tuple[Any, bool], Path] = {}

    def report(make: Callable[[], Page], one_file: bool = True) -> Path:
        if (make, one_file) not in done:
            page = make()
            folder = tmp_path_factory.mktemp("report")
            manifest = {"schema": page.schema, "technique": page.kind}
            done[make, one_file] = write(page, folder, manifest, one_file=one_file)
        return done[make, one_file]

    return report


@pytest.fixture
def opened(browser, written) -> Iterator[Callable[..., Any]]:
    """Opens a report, and at the end holds that the browser had nothing to complain of."""
    contexts, complaints, asked = [], [], []

    def look(make: Callable[[], Page] = comparison, one_file: bool = True, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        path = written(make, one_file)
        page.goto(path.as_uri())
        page.home = path.parent.as_uri()
        return page

    yield look
    for context in contexts:
        context.close()
    assert not complaints, complaints
    assert all(url.startswith(("file://", "data:image/")) for url in asked), asked


@pytest.mark.parametrize("make", [comparison, hostile])
def test_it_opens_without_a_request_or_a_complaint(opened, make):
    page = opened(make)
    loaded = "[...document.images].filter(i => i.src && i.loading != 'lazy').every(i => i.naturalWidth > 0)"
    assert page.evaluate(loaded)
    assert (
        page.evaluate(
            "performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
        )
        == 0
    )


def test_photos_beside_the_page_come_when_they_are_seen(opened):
    page = opened(comparison, one_file=False)
    first = page.locator(".photo summary img").first
    first.scroll_into_view_if_needed()
    until(page, "document.querySelector('.photo summary img').naturalWidth > 0")
    hidden = (
        "[...document.querySelectorAll('.layer img')].filter(i => i.complete && i.naturalWidth > 0).length"
    )
    assert page.evaluate(hidden) == 0  # maps wait until somebody opens the photo
    page.locator(".photo summary").first.click()
    until(page, "document.querySelector('#lightbox .over').naturalWidth > 0")


def until(page: Any, condition: str):
    """Playwright's own way of waiting is a script that the page's policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def rows(page: Any, column: int) -> list[str]:
    return page.locator(f"#section-layers tbody tr td:nth-child({column})").all_text_contents()


def test_tables_are_sorted_by_their_heads(opened):
    page = opened()
    head = page.locator("#section-layers thead th", has_text="order")
    given = rows(page, 2)
    head.get_by_role("button").click()
    assert rows(page, 2) == [str(i) for i in range(66, -1, -1)]
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    assert rows(page, 2) == [str(i) for i in range(67)] and head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert rows(page, 2) == given and head.get_attribute("aria-sort") is None
    page.locator("#section-layers thead th", has_text="layer").get_by_role("button").click()
    assert rows(page, 1)[:3] == ["blocks.0.add", "blocks.0.depthwise", "blocks.0.expand"]


def test_the_lightbox_by_mouse(opened):
    page = opened()
    page.locator(".photo summary").nth(1).click()
    box = page.locator("#lightbox")
    assert box.is_visible() and box.locator("h2").text_content() == "photo 1"
    assert "another class" in box.locator("#lightbox-note").text_content()
    over = box.locator(".over")
    wanted = page.locator(".photo").nth(1).locator(".layer").first.locator("img").get_attribute("src")
    assert over.get_attribute("src") == wanted
    box.get_by_label("smoothgrad, int8").check(force=True)
    box.get_by_label("tabby").check(force=True)
    wanted = (
        page.locator(".photo")
        .nth(1)
        .locator('.layer[data-method="smoothgrad, int8"][data-target="tabby"] img')
    )
    assert over.get_attribute("src") == wanted.get_attribute("src")
    box.locator("input[type=range]").fill("20")
    assert over.evaluate("e => getComputedStyle(e).opacity") == "0.2"
    # The map lies exactly on the photo.
    assert over.bounding_box() == box.locator(".base").bounding_box()
    box.get_by_role("button", name="Next photo").click()
    assert box.locator("h2").text_content() == "photo 2"
    assert box.get_by_label("smoothgrad, int8").is_checked()  # what was chosen stays chosen
    assert box.locator(".answers tr").count() == 4
    box.get_by_role("button", name="Close").click()
    assert not box.is_visible()


def test_the_lightbox_by_keyboard(opened):
    page = opened()
    page.locator(".photo summary").first.focus()
    page.keyboard.press("Enter")
    box = page.locator("#lightbox")
    assert box.is_visible()
    page.keyboard.press("ArrowLeft")  # round to the last
    assert box.locator("h2").text_content() == "photo 11"
    method = box.get_by_label("grad-cam, fp32")
    method.focus()
    page.keyboard.press("ArrowRight")  # among the tabs, not to the next photo
    assert box.get_by_label("grad-cam, int8").is_checked() and box.locator("h2").text_content() == "photo 11"
    page.keyboard.press("Escape")
    assert not box.is_visible()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_lasso_on_the_map_filters_the_photos(opened):
    page = opened(album)
    page.locator(".map").scroll_into_view_if_needed()
    box = page.locator(".map svg").bounding_box()
    left, top, width, height = box["x"], box["y"], box["width"], box["height"]
    scale = width / 1032
    assert height == pytest.approx(312 * scale, abs=3)  # it fills the page from side to side
    left, top = left + 16 * scale, top + 16 * scale

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * scale, top + y * scale

    page.mouse.move(*place(-8, -8))
    page.mouse.down()
    for x, y in ((200, -8), (200, 150), (-8, 150)):
        page.mouse.move(*place(x, y), steps=4)
    page.mouse.up()
    shown = page.locator(".photo:visible .name").all_text_contents()
    assert shown == ["photo 0.png", "photo 1.png", "photo 2.png"]
    assert page.locator(".map figcaption span").text_content().startswith("3 of 9 photos")
    page.locator(".photo summary").first.click()
    page.get_by_role("button", name="Previous photo").click()  # only among those that are shown
    assert page.locator("#lightbox h2").text_content() == "set/photo 2.png"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Show all photos").click()
    assert page.locator(".photo:visible").count() == 9
    page.mouse.click(*place(0, 0))  # a point is its photo
    assert page.locator("#lightbox h2").text_content() == "set/photo 0.png"


@pytest.mark.parametrize("script", [True, False])
def test_a_drawn_picture_opens_large_and_closes_again(opened, script):
    page = opened(java_script_enabled=script)
    page.set_viewport_size({"width": 280, "height": 800})
    picture = page.locator(".finding .enlarge img").first
    width, natural = picture.bounding_box()["width"], int(picture.get_attribute("width"))
    assert width < natural == 320
    page.locator(".finding .enlarge summary").first.press("Enter")
    assert picture.bounding_box()["width"] == natural
    assert picture.bounding_box()["height"] == int(picture.get_attribute("height"))
    page.locator(".finding .enlarge summary").first.press("Enter")
    assert picture.bounding_box()["width"] == width


def test_all_of_it_without_script(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("thead button").count() == 0
    photo = page.locator(".photo").first
    photo.locator("summary").click()
    assert photo.locator(".layer img").count() == 8
    assert photo.locator(".layer img").first.is_visible() and photo.locator(".answers").is_visible()
    assert page.locator("#checks tbody tr").count() == 8
    assert page.get_by_text("What the layer's values are").is_visible()
    assert not page.locator("#lightbox").is_visible()


@pytest.mark.parametrize(("script", "one_file"), [(True, True), (True, False), (False, True)])
def test_maps_that_are_laid_are_seen_from_the_first(opened, script, one_file):
    page = opened(laid, one_file=one_file, java_script_enabled=script)
    maps = page.locator(".photo .layer img")
    assert maps.count() == 6 and all(one.is_visible() for one in maps.all())
    photo, one, other = (
        where.bounding_box() for where in (page.locator(".photo summary img").first, maps.nth(0), maps.nth(1))
    )
    assert photo["x"] < one["x"] < other["x"] and photo["y"] == one["y"] == other["y"]  # side by side
    assert one["width"] == pytest.approx(photo["width"], rel=0.1)
    if script:  # and under each map its photo
        under = "getComputedStyle(document.querySelector('.layer'), '::before').backgroundImage"
        assert page.evaluate(under).startswith('url("data:image/webp' if one_file else 'url("file:')
        page.locator(".photo summary").nth(2).click()
        assert page.locator("#lightbox h2").text_content() == "photo 2"
        assert page.locator("#lightbox .answers").is_visible()
        page.locator("#lightbox [data-do=close]").click()
        assert maps.nth(5).is_visible()


def test_on_paper(opened):
    page = opened()
    assert 2 <= sheets(page) <= 10
    page.emulate_media(media="print")
    assert page.get_by_text("Of 68 photos 36 have a margin").is_visible()
    assert not page.locator("nav").is_visible()


def sheets(page: Any) -> int:
    """How many A4 pages it prints to, as a browser prints: without backgrounds."""
    return len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))


@pytest.mark.parametrize("script", [True, False])
def test_an_audit_on_paper_is_four_pages_with_all_that_a_finding_stands_on(opened, script):
    page = opened(audited, java_script_enabled=script)
    assert sheets(page) <= 4
    page.emulate_media(media="print")
    assert page.locator(".finding .evidence img").is_visible()
    limits = page.locator(".limits p")
    assert limits.count() > 20 and all(one.is_visible() for one in limits.all())
    assert not page.get_by_text("What is shown of a clean check").first.is_visible()
    badge = page.locator(".verdict b")
    colour, behind = (
        badge.evaluate(f"e => getComputedStyle(e).{one}") for one in ("color", "backgroundColor")
    )
    assert (colour, behind) == ("rgb(26, 31, 38)", "rgba(0, 0, 0, 0)")
    width = page.locator(".gallery").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width[0] <= width[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("make", [comparison, hostile, album, audited, laid])
def test_it_is_accessible(opened, make, scheme):
    page = opened(make, color_scheme=scheme, bypass_csp=True)
    page.add_script_tag(path=AXE)
    judge = "async () => (await axe.run()).violations.map(v => `${v.id}: ${v.nodes.map(n => n.html).slice(0, 3)}`)"
    assert page.evaluate(judge) == []
    if make is comparison:
        page.locator(".photo summary").first.click()
        assert page.evaluate(judge) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")


def test_a_narrow_screen_needs_no_sideways_scrolling(opened):
    page = opened()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
