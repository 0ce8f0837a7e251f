"""The page as HTML: whole, inert, in one file."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from onnxviz.auditing.finding import Check, Finding
from onnxviz.auditing.report.exchange import junit, sarif
from onnxviz.auditing.report.html import columns, render, shown
from onnxviz.auditing.report.page import Gallery, Page, Photo, Section, Table, Text, safe_link
from onnxviz.text import hidden
from tests.auditing.report.samples import EVIL, comparison, hostile, scene

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Tags(HTMLParser):
    """Start tags with attributes, and whether each end tag ends what was begun last."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    return render(comparison()).decode()


def test_the_page_is_well_formed_and_its_links_lead_somewhere(text):
    tags = Tags(text)
    assert not tags.crossed and not tags.open
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for link in tags.named("a"):
        assert link["href"].startswith("#") and link["href"][1:] in ids
    assert all(image["alt"] or "class" in image for image in tags.named("img"))


def test_the_policy_lets_nothing_in_but_the_pages_own_script(text):
    tags = Tags(text)
    policy = next(one["content"] for one in tags.named("meta") if one.get("http-equiv"))
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ")[:4] == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]
    assert not re.search(r"https?://", text)
    sources = [image["src"] for image in tags.named("img") if "src" in image]
    assert len(sources) > 100 and all(one.startswith("data:image/") for one in sources)


def test_what_is_told(text):
    page = comparison()
    for finding in page.findings:
        assert finding.sentence.partition(",")[0] in text and finding.advice.partition(",")[0] in text
    assert text.index("One layer, blocks.4.depthwise") < text.index(
        "3.1 % of the values"
    )  # accepted ones last
    assert "2 high findings · 1 accepted · 3 checks clean · 1 check not run · 1 check not applicable" in text
    assert "only 3 pictures were given" in text and "known, until 2027-03-01" in text
    assert "2026-11-28 13:45 UTC" in text


def test_hostile_text_is_inert():
    assert {"\u202e", "\x1b", "\x00"} <= set(EVIL) and "</script>" in EVIL and " =1+1" in EVIL
    page = render(hostile()).decode()
    tags = Tags(page)
    assert not tags.crossed and not tags.open
    assert len(tags.named("script")) == 1
    assert not [
        attributes for _, attributes in tags.tags if any(name.startswith("on") for name in attributes)
    ]
    assert not [one for one in set(page) if hidden(one) and one != "\n"]
    assert page.count("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;\\u202egnp.exe\\x1b[31m\\x00") > 30
    assert all("javascript" not in str(one.get("href")) for one in tags.named("a"))


@pytest.mark.parametrize(
    ("link", "stays"),
    [
        *(
            (link, False)
            for link in ("javascript:alert(1)", "https://a.b/c", "//a.b/c", "/etc/passwd", "../x")
        ),
        *((link, False) for link in ("data:text/html,x", "a\\b")),
        *((link, True) for link in ("#check-a", "evidence/a-1.png", "layers.csv#row-5")),
    ],
)
def test_links_stay_in_the_folder(link, stays):
    assert safe_link(link) == (link if stays else "")


@pytest.mark.parametrize(("link", "led"), [("report/report.html", True), ("https://a.example/", False)])
def test_a_text_leads_to_a_page_beside_it_and_marks_what_is_typed(link, led):
    text = Text("Run `onnxviz inspect <file>` first.", link=link)
    shown = render(Page("demo", "x", sections=[Section("One", [text])])).decode()
    assert "Run <code>onnxviz inspect &lt;file&gt;</code> first." in shown
    assert (f'<a href="{link}">{link}</a>' in shown) == led and (link in shown) == led


def test_numbers_are_told_with_three_digits():
    assert [shown(value) for value in (0.123456, -0.5, None, float("nan"), 12345, True, "as said")] == [
        "0.123", "−0.5", "–", "–", "12\u202f345", "yes", "as said",
    ]  # fmt: skip
    assert shown(0.0312, ".1%") == "3.1%"
    assert shown(np.float32(2.5), ".2f") == "2.50"


def test_columns_of_numbers_and_of_text():
    table = Table(
        {"a": ["x", None], "b": np.float32([0.5, np.nan]), "c": [1, 2]},
        bars={"b": None, "c": 8},
        links={"a": ["#p", "//evil"]},
    )
    a, b, c = columns(table)
    assert (a.numeric, b.numeric, c.numeric) == (False, True, True)
    assert a.texts == ["x", "–"] and a.links == ["#p", ""]
    assert b.bars == [1.0, 0.0] and b.keys == ["0.5", ""]
    assert c.bars == [0.125, 0.25]


def test_digests_and_paths_are_told_short_on_the_page():
    (column,) = columns(Table({"sha256": ["ab" * 32]}))
    assert column.texts == ["abababababab…"] and column.widest == 13
    photo = Photo("in/a folder/cat.png", np.zeros((4, 4, 3), np.uint8))
    text = render(Page("report", "r", sections=[Section("S", [Gallery([photo])])])).decode()
    assert 'title="in/a folder/cat.png">cat.png</span>' in text


def test_a_long_table_is_cut_on_the_page_and_says_where_the_rest_is():
    section = Section("T", [Table({"n": list(range(1000))}, file="numbers", most=10)])
    text = render(Page("compare", "t", sections=[section])).decode()
    assert 'The first 10 of 1\u202f000 rows; all are in <a href="numbers.csv">' in text
    assert text.count("<tr") == 11


def test_photos_beyond_the_room_of_a_page_are_counted(monkeypatch):
    monkeypatch.setattr("onnxviz.auditing.report.html._ROOM", 200_000)
    rng = np.random.default_rng(0)
    noise = [Photo(f"p{i}", rng.integers(0, 255, (200, 200, 3), np.uint8)) for i in range(8)]
    page = Page("report", "r", sections=[Section("Photos", [Gallery(noise)])])
    text = render(page).decode()
    shown_ = text.count('<details class="photo')
    assert 0 < shown_ < 8 and f"{8 - shown_} more photos are not on this page" in text
    assert len(text) < 260_000


def test_photos_beside_the_page():
    rng = np.random.default_rng(0)
    beside: dict[str, bytes] = {}
    page = Page("report", "r", sections=[Section("Photos", [Gallery([Photo("p", scene(rng))] * 3)])])
    text = render(page, beside).decode()
    tags = Tags(text)
    sources = [image["src"] for image in tags.named("img") if "src" in image]
    assert sources == list(beside) and len(beside) == 3
    assert all(data[8:12] == b"WEBP" for data in beside.values())
    assert "img-src data: &#39;self&#39; file:" in text or "img-src data: 'self' file:" in text


def test_the_same_page_twice_is_the_same_file(text):
    assert render(comparison()).decode() == text


def test_findings_of_one_place_share_an_anchor():
    findings = tuple(Finding("a.b", "low", figure, 0, "here", f"found {figure}") for figure in (1, 2))
    text = render(Page("audit", "m", checks=[Check("a.b", "t", "found", findings=findings)])).decode()
    assert "found 1" in text and "found 2" in text
    assert text.count(f'id="finding-{findings[0].fingerprint}"') == 1


def test_a_page_without_checks_has_no_verdict():
    text = render(Page("report", "photos")).decode()
    assert "Findings" not in text and 'class="verdict"' not in text


def test_a_finding_says_what_its_figure_is_of():
    of = "share of pictures <b>& more</b>"
    finding = Finding("answers.truth", "high", 0.893, 0.95, "", "found")
    check = Check("answers.truth", "?", "found", findings=(finding,), measure=of)
    text = render(Page("audit", "m", checks=[check])).decode()
    assert text.count("share of pictures &lt;b&gt;&amp; more&lt;/b&gt;") == 2
    assert of not in text


def test_a_finding_begins_with_what_it_means():
    said = {"sentence": "the Where node 'j' lets in 'x'", "headline": "A <b>part</b> decides"}
    check = Check("a.b", "?", "found", findings=(Finding("a.b", "high", 0, 1, "j", **said),))
    page = Page("audit", "m", checks=[check])
    text = render(page).decode()
    assert '<h3 dir="auto">A &lt;b&gt;part&lt;/b&gt; decides</h3>' in text
    assert '<p dir="auto">The Where node &#39;j&#39; lets in &#39;x&#39;.</p>' in text
    told = "A <b>part</b> decides: the Where node 'j' lets in 'x'"
    assert sarif(page)["runs"][0]["results"][0]["message"]["text"].startswith(told)
    assert junit(page).count(b"decides: the Where node") == 2
