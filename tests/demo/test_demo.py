import re
from functools import partial
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

import onnxviz
from onnxviz.cli.table import COMMANDS
from onnxviz.demo import photos, run, sections, topics
from onnxviz.errors import OutputRefused
from onnxviz.image.io import read


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The demo with its quickest sections."""
    folder = tmp_path_factory.mktemp("demo")
    patch = pytest.MonkeyPatch()
    quick = [topic for topic in topics.TOPICS if topic.anchor in ("filters", "predict", "inspect")]
    patch.setattr(run, "TOPICS", quick)
    patch.setattr(run, "_CROPS_A_PHOTO", 1)
    said = []
    path = run.demo(folder / "out", provider="cpu", say=said.append)
    patch.undo()
    assert len(said) == 3
    return path


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text(encoding="utf-8")
    tags = Page(text).tags
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object")]
    assert not re.findall(r"https?://", text)
    assert sum(tag == "section" for tag, _ in tags) == 4  # and the particulars
    for tag, attributes in tags:
        if tag == "a":
            assert f'id="{attributes["href"][1:]}"' in text
        if tag == "img" and "src" in attributes:
            assert attributes["alt"] and attributes["src"].startswith("data:image/")


def test_the_page_shows_what_the_network_says(page):
    text = page.read_text(encoding="utf-8")
    assert "Egyptian cat" in text
    assert "blocks.0.depthwise" in text
    for suffix in (".png", ".npy", ".json"):
        assert (page.parent / f"filters{suffix}").is_file()


def test_commands_name_what_is_there(page):
    text = page.read_text(encoding="utf-8")
    (named,) = re.findall(r"<code>onnxviz predict efficientnet-lite0 (\S+)</code>", text)
    picture = page.parent / named
    assert picture.read_bytes() == photos.photos()[picture.stem].read_bytes()


def test_the_sections_of_report_and_audit(tmp_path, net, monkeypatch):
    found = dict([*photos.photos().items()][:3])
    crops = photos.write_crops(tmp_path / "photos", list(found.values()), 1, seed=0)
    stage = photos.Stage(net, tmp_path, found, crops, 0, lambda *_: None)
    album = sections.album(stage)
    assert len(album.blocks[-1].photos) == 3 and len(album.blocks[-1].photos[0].layers) == 4
    assert (tmp_path / "report" / "report.html").exists()

    some = partial(onnxviz.audit, only=["graph.bypass", "answers.constant"])
    monkeypatch.setattr(onnxviz, "audit", some)
    shown = sections.audited(stage)
    assert shown.blocks[0].head == "Verdict: pass"
    table = shown.blocks[-1]
    assert "graph.bypass" in table.columns["check"] and "clean" in table.columns["state"]
    report = (tmp_path / "audited" / "report.html").read_text("utf-8")
    for link in table.links["check"]:
        path, _, place = link.partition("#")
        assert path == "audited/report.html" and f'id="{place}"' in report
    pages = {row.anchor: row.link for row in topics.TOPICS if row.link}
    assert set(pages) == {"report", "audit", "compare"}
    assert all((tmp_path / pages[anchor]).is_file() for anchor in ("report", "audit"))


def test_the_texture_command_names_a_source_that_is_there(tmp_path, monkeypatch):
    made = SimpleNamespace(values=np.zeros((sections._SIDE, sections._SIDE, 3), np.float32))
    monkeypatch.setattr(photos.Stage, "run", lambda *_, **__: made)
    sections.textures(photos.Stage(None, tmp_path, photos.photos(), tmp_path, 0, lambda *_: None))
    (command,) = (row.command for row in topics.TOPICS if row.anchor == "texture")
    assert read(tmp_path / command.split()[3]).shape == (64, 64, 3)


def test_crops_are_drawn_from_the_seed(tmp_path):
    found = [*photos.photos().values()][:1]
    first = photos.write_crops(tmp_path / "a", found, 2, seed=0)
    again = photos.write_crops(tmp_path / "b", found, 2, seed=0)
    other = photos.write_crops(tmp_path / "c", found, 2, seed=1)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 2
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes() != (other / name).read_bytes()
        height, width = read(first / name).shape[:2]
        assert height == width <= 320


def test_without_scikit_image_there_are_still_two_photos(monkeypatch):
    real = photos.importlib.util.find_spec
    without = lambda name: None if name == "skimage" else real(name)  # noqa: E731
    monkeypatch.setattr(photos.importlib.util, "find_spec", without)
    assert sorted(photos.photos()) == ["china", "flower"]


def test_every_section_asks_a_question_and_tells_a_command_that_there_is():
    rows = topics.TOPICS
    assert len(rows) == len({row.anchor for row in rows}) == len({row.title for row in rows}) == 24
    for topic in rows:
        assert topic.question.endswith(("?", ".")) and topic.text.endswith(".")
        program, command, *_ = topic.command.split()
        assert program == "onnxviz" and command in COMMANDS, topic.anchor


def test_an_old_page_says_incomplete_while_a_new_one_is_made_and_a_page_of_others_stays(
    tmp_path, monkeypatch
):
    page = tmp_path / "index.html"
    page.write_text("<title>my site</title>")
    with pytest.raises(OutputRefused, match="no page of this demo"):
        run.demo(tmp_path)
    assert page.read_text() == "<title>my site</title>"
    page.write_text(f"<title>{run._TITLE}</title> an old one")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "TOPICS", (topics.Topic(*"abcde", stopped),))
    monkeypatch.setattr(run, "photos", dict)
    with pytest.raises(KeyboardInterrupt):
        run.demo(tmp_path)
    assert "Incomplete" in page.read_text()
    monkeypatch.setattr(run, "TOPICS", ())
    run.demo(tmp_path)
    assert "Incomplete" not in page.read_text()
