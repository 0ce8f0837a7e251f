"""Finding pictures among hostile files and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz.errors import ImageRejected
from onnxviz.image import folder
from onnxviz.image.folder import Listing, Paths, find, natural


@pytest.fixture
def touch(tmp_path):
    """Makes files of these names."""

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")

    return make


def names(listing: Listing, top: Path) -> list[str]:
    return [str(path.relative_to(top)) for path in listing.images]


def reasons(listing: Listing) -> dict[str, str]:
    return {skipped.path.name: skipped.reason for skipped in listing.skipped}


# --- what is found, and in which order --------------------------------------------------------


def test_natural_order_depth_first(tmp_path, touch):
    order = [
        "1.png",
        "2.png",
        "10.png",
        "a/img2.jpg",
        "a/img10.jpg",
        "B.jpg",
        "b2/x.gif",
        "b10/x.gif",
        "c.webp",
    ]
    touch(*reversed(order))
    listing = find(tmp_path)
    assert names(listing, tmp_path) == order
    assert (listing.skipped, listing.ignored) == ([], 0)
    assert list(find(str(tmp_path)).images) == list(listing.images)
    # Zeros before a number change nothing but ties.
    assert sorted(["a010", "a9", "a10", "a0", "a00", "a"], key=natural) == [
        "a",
        "a0",
        "a00",
        "a9",
        "a010",
        "a10",
    ]


def test_the_order_does_not_depend_on_the_disk(tmp_path, monkeypatch, touch):
    touch(*(f"{i}.png" for i in range(50)))
    expected = find(tmp_path).images
    real = os.scandir

    class Reversed:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(folder.os, "scandir", Reversed)
    assert find(tmp_path).images == expected


@given(st.lists(st.text("aB0123 ._é", min_size=1, max_size=8), max_size=12, unique=True))
def test_natural_is_a_total_order_that_reads_numbers(words):
    assert len({natural(word) for word in words}) == len(words)
    numbers = sorted({int(word) for word in words if word.isdecimal()})
    assert sorted((f"x{n}.png" for n in numbers), key=natural) == [f"x{n}.png" for n in numbers]


def test_files_and_folders_mixed_keep_the_order_given(tmp_path, touch):
    touch("z.jpg", "d/2.jpg", "d/1.jpg", "a.jpg", "picture.dat")
    listing = find([tmp_path / "z.jpg", tmp_path / "d", str(tmp_path / "a.jpg"), tmp_path / "picture.dat"])
    assert names(listing, tmp_path) == ["z.jpg", "d/1.jpg", "d/2.jpg", "a.jpg", "picture.dat"]


def test_nothing_twice(tmp_path, monkeypatch, touch):
    touch("d/1.jpg", "d/e/2.jpg")
    monkeypatch.chdir(tmp_path)
    one, two = tmp_path / "d" / "1.jpg", tmp_path / "d" / "e" / "2.jpg"
    assert len(find([tmp_path, tmp_path / "d", "d", "d/../d/1.jpg", one, two]).images) == 2
    assert [path.name for path in find([two, one, tmp_path]).images] == ["2.jpg", "1.jpg"]


FOUND = {
    "other files are counted, not listed": (
        ["a.jpg", "labels.txt", "README", "d/x.csv", "._a.jpg", ".thumbnails/a.jpg"], {}, ["a.jpg"], {}, 4
    ),
    "extensions in any case, and pictures that are not read": (
        ["1.JPG", "2.JpEg", "3.tiff", "4.ppm", "5.y.bmp", "a.heic", "b.AVIF", "c.svg"], {},
        ["1.JPG", "2.JpEg", "3.tiff", "4.ppm", "5.y.bmp"], dict.fromkeys(("a.heic", "b.AVIF", "c.svg"), "not read"), 0
    ),
    "a circle of links": (
        ["d/a.jpg"], {"d/up": "..", "self.jpg": "self.jpg", "self": "self"}, ["d/a.jpg"],
        {"up": "read anyway", "self.jpg": "circle", "self": "circle"}, 0
    ),
    "a link to a folder that is read anyway": (
        ["real/a.jpg"], {"alias": "real"}, ["real/a.jpg"], {"alias": "read anyway"}, 0
    ),
    "links that stay inside, as download caches keep files": (
        ["blobs/0123", "a.jpg"], {"named/cat.jpg": "../blobs/0123", "named/dog.txt": "../blobs/0123"},
        ["a.jpg", "named/cat.jpg"], {}, 2
    ),
    "dangling links": ([], {"a.jpg": "gone", "a.txt": "gone"}, [], {"a.jpg": "does not exist"}, 1),
}  # fmt: skip


@pytest.mark.parametrize(("files", "links", "found", "skipped", "ignored"), FOUND.values(), ids=FOUND)
def test_what_is_found_skipped_and_counted(tmp_path, touch, files, links, found, skipped, ignored):
    touch(*files)
    for link, target in links.items():
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(target)
    listing = find(tmp_path)
    assert names(listing, tmp_path) == found
    assert reasons(listing).keys() == skipped.keys()
    assert all(words in reasons(listing)[name] for name, words in skipped.items())
    assert listing.ignored == ignored


def test_deeper_than_python_recurses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        Path("d").mkdir()
        os.chdir("d")
    Path("x.jpg").write_bytes(b"x")
    os.chdir(tmp_path)
    try:
        assert [len(path.parts) for path in find(".").images] == [1501]
    finally:  # step by step: shutil.rmtree, which would tidy up after us, does recurse
        os.chdir("/".join("d" * 1500))
        Path("x.jpg").unlink()
        for _ in range(1500):
            os.chdir("..")
            Path("d").rmdir()


# --- hostile --------------------------------------------------------------------------------


def test_links_that_lead_out_are_not_followed(tmp_path, touch):
    inside, outside = tmp_path / "in", tmp_path / "in-side"  # one name begins with the other
    touch(inside / "a.jpg", outside / "secret.jpg", outside / "deep" / "b.jpg")
    (inside / "folder").symlink_to(outside)
    (inside / "file.jpg").symlink_to(outside / "secret.jpg")
    (inside / "absolute.jpg").symlink_to((outside / "secret.jpg").resolve())
    listing = find(inside)
    assert names(listing, inside) == ["a.jpg"]
    assert {name: "leads out" in reason for name, reason in reasons(listing).items()} == {
        "folder": True,
        "file.jpg": True,
        "absolute.jpg": True,
    }
    assert len(find([inside, outside]).images) == 5  # its target is named too: the file links now stay inside


def test_a_root_may_be_a_link(tmp_path, touch):
    touch("d/a.jpg")
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "link.jpg").symlink_to("d/a.jpg")
    assert names(find([tmp_path / "link"]), tmp_path) == ["link/a.jpg"]
    assert names(find([tmp_path / "link.jpg"]), tmp_path) == ["link.jpg"]


def test_pipes_and_links_to_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    listing = find([tmp_path, tmp_path / "pipe"])
    assert not listing.images
    assert sorted(reasons(listing)) == ["pipe", "pipe.jpg", "zero.jpg"]
    assert listing.ignored == 1


def test_missing_roots_are_listed(tmp_path, touch):
    touch("a.jpg")
    listing = find([tmp_path / "gone", tmp_path / "a.jpg", "a\0b", tmp_path / "a.jpg" / "x"])
    assert names(listing, tmp_path) == ["a.jpg"]
    assert [skipped.path.name for skipped in listing.skipped] == ["gone", "a\0b", "x"]


def test_unreadable_folder(tmp_path, monkeypatch, touch):
    touch("a.jpg", "locked/b.jpg", "z.jpg")
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(folder.os, "scandir", scandir)
    listing = find(tmp_path)
    assert names(listing, tmp_path) == ["a.jpg", "z.jpg"]
    assert reasons(listing) == {"locked": "it may not be read by this user"}


def test_a_folder_that_vanishes_meanwhile(tmp_path, monkeypatch, touch):
    touch("d/a.jpg", "z.jpg")
    real = folder._kind

    def kind(entry):
        found = real(entry)
        if entry.name == "d":
            (tmp_path / "d" / "a.jpg").unlink()
            (tmp_path / "d").rmdir()
        return found

    monkeypatch.setattr(folder, "_kind", kind)
    listing = find(tmp_path)
    assert names(listing, tmp_path) == ["z.jpg"]
    assert reasons(listing) == {"d": "it does not exist"}


def test_names_that_are_not_utf8(tmp_path, touch):
    top = os.fsencode(tmp_path)
    Path(os.fsdecode(top + b"/\xff.jpg")).write_bytes(b"x")
    Path(os.fsdecode(top + b"/\xfe")).mkdir()
    Path(os.fsdecode(top + b"/\xfe/in.jpg")).write_bytes(b"x")
    Path(os.fsdecode(top + b"/\xfd.txt")).write_bytes(b"x")
    touch("ö.jpg")
    listing = find(tmp_path)
    assert names(listing, tmp_path) == ["ö.jpg"]
    assert [skipped.reason for skipped in listing.skipped] == ["its name is not UTF-8; rename it"] * 2
    assert listing.ignored == 1
    for skipped in listing.skipped:
        str(skipped).encode("utf-8")
    assert not find(Path(os.fsdecode(top + b"/\xfe"))).images


def test_what_was_skipped_is_safe_to_show(tmp_path):
    os.mkfifo(tmp_path / "\x1b[2J\n\u202e.jpg")
    shown = str(find(tmp_path).skipped[0])
    assert shown.isprintable()
    assert "\\x1b" in shown


# --- the listing ------------------------------------------------------------------------------


def test_require(tmp_path, touch):
    touch("a.txt")
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageRejected, match=r"1 other files, 1 skipped .*a\.jpg: a pipe.*\.png"):
        find(tmp_path).require()
    touch("b.jpg")
    listing = find(tmp_path)
    assert listing.require() is listing


def test_paths_are_a_list_of_path():
    listed = ["a/1.jpg", "a/2.jpg", "b.jpg"]
    paths = Paths(listed)
    assert list(paths) == [Path(name) for name in listed]
    assert len(paths) == 3
    assert (paths[1], paths[-1], next(reversed(paths))) == (Path("a/2.jpg"), Path("b.jpg"), Path("b.jpg"))
    assert paths[:2] == [Path("a/1.jpg"), Path("a/2.jpg")]
    assert paths == Paths(listed)
    assert paths != [Path("b.jpg")]
    assert Path("b.jpg") in paths
    assert repr(paths) == "<3 paths: 'a/1.jpg', 'a/2.jpg', 'b.jpg'>"
    assert "\x1b" not in repr(Paths(["\x1b[2J"]))
    with pytest.raises(IndexError):
        paths[3]


def test_memory_is_little_more_than_the_paths(tmp_path, touch):
    """Per picture: its path's text (49 bytes of overhead), two list entries, the sort key while sorting."""
    import tracemalloc

    touch(*(f"{i:06d}.jpg" for i in range(1500)))
    text = sum(len(str(tmp_path)) + 1 + 10 + 49 + 8 for _ in range(1500))
    find(tmp_path)
    tracemalloc.start()
    listing = find(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing.images) == 1500
    assert kept < 1.4 * text + 40_000
    assert peak < kept + 1500 * 260
