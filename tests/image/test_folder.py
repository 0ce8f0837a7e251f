"""Finding pictures among hostile files and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz.errors import ImageRejected
from onnxviz.image import folder
from onnxviz.image.folder import Listing, Paths, Skipped, find, natural


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(listing: Listing, top: Path) -> list[str]:
    return [str(path.relative_to(top)) for path in listing.images]


def reasons(listing: Listing) -> dict[str, str]:
    return {skipped.path.name: skipped.reason for skipped in listing.skipped}


# --- what is found, and in which order --------------------------------------------------------


def test_natural_order_depth_first(tmp_path):
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
    touch(*(tmp_path / name for name in reversed(order)))
    listing = find(tmp_path)
    assert names(listing, tmp_path) == order
    assert (listing.skipped, listing.ignored) == ([], 0)
    assert list(find(str(tmp_path)).images) == list(listing.images)


def test_the_order_does_not_depend_on_the_disk(tmp_path, monkeypatch):
    touch(*(tmp_path / f"{i}.png" for i in range(50)))
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


def test_zeros_before_a_number_change_nothing_but_ties():
    assert sorted(["a010", "a9", "a10", "a0", "a00", "a"], key=natural) == [
        "a",
        "a0",
        "a00",
        "a9",
        "a010",
        "a10",
    ]


def test_files_and_folders_mixed_keep_the_order_given(tmp_path):
    touch(tmp_path / "z.jpg", tmp_path / "d" / "2.jpg", tmp_path / "d" / "1.jpg", tmp_path / "a.jpg")
    listing = find([tmp_path / "z.jpg", tmp_path / "d", str(tmp_path / "a.jpg")])
    assert names(listing, tmp_path) == ["z.jpg", "d/1.jpg", "d/2.jpg", "a.jpg"]


def test_nothing_twice(tmp_path, monkeypatch):
    touch(tmp_path / "d" / "1.jpg", tmp_path / "d" / "e" / "2.jpg")
    monkeypatch.chdir(tmp_path)
    one, two = tmp_path / "d" / "1.jpg", tmp_path / "d" / "e" / "2.jpg"
    assert len(find([tmp_path, tmp_path / "d", "d", "d/../d/1.jpg", one, two]).images) == 2
    assert [path.name for path in find([two, one, tmp_path]).images] == ["2.jpg", "1.jpg"]


def test_not_recursive(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "d" / "b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    listing = find(tmp_path, recursive=False)
    assert names(listing, tmp_path) == ["a.jpg"]
    assert not listing.skipped


def test_other_files_are_counted_not_listed(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "labels.txt", tmp_path / "README", tmp_path / "d" / "x.csv")
    touch(tmp_path / "._a.jpg", tmp_path / ".thumbnails" / "a.jpg")
    listing = find(tmp_path)
    assert names(listing, tmp_path) == ["a.jpg"]
    assert listing.ignored == 4
    assert not listing.skipped


@pytest.mark.parametrize("name", ["A.JPG", "a.JpEg", "x.tiff", "x.ppm", "x.y.bmp"])
def test_extensions_in_any_case(tmp_path, name):
    touch(tmp_path / name)
    assert names(find(tmp_path), tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.heic", "b.AVIF", "c.svg"])
def test_pictures_that_cannot_be_read_are_told(tmp_path, name):
    touch(tmp_path / name)
    listing = find(tmp_path)
    assert "not read" in reasons(listing)[name]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path):
    touch(tmp_path / "picture.dat")
    assert names(find(tmp_path / "picture.dat"), tmp_path) == ["picture.dat"]


def test_deeper_than_python_recurses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        Path("d").mkdir()
        os.chdir("d")
    touch(Path("x.jpg"))
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


def test_a_circle_of_links(tmp_path):
    touch(tmp_path / "d" / "a.jpg")
    (tmp_path / "d" / "up").symlink_to("..")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "self").symlink_to("self")
    for follow in (False, True):
        listing = find(tmp_path, follow=follow)
        assert names(listing, tmp_path) == ["d/a.jpg"]
        assert "read anyway" in reasons(listing)["up"]
        assert "circle" in reasons(listing)["self.jpg"]
        assert "circle" in reasons(listing)["self"]


def test_links_that_lead_out_are_followed_only_on_request(tmp_path):
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
    followed = find(inside, follow=True)
    assert names(followed, inside) == [
        "a.jpg", "absolute.jpg", "file.jpg", "folder/deep/b.jpg", "folder/secret.jpg"
    ]  # fmt: skip
    assert not followed.skipped
    assert len(find([inside, outside]).images) == 5  # its target is named too: the file links now stay inside


def test_a_folder_that_is_reached_by_a_link_first_is_read_once(tmp_path):
    touch(tmp_path / "real" / "a.jpg")
    (tmp_path / "alias").symlink_to("real")
    assert names(find(tmp_path, follow=True), tmp_path) == ["alias/a.jpg"]
    assert names(find(tmp_path), tmp_path) == ["real/a.jpg"]


def test_links_that_stay_inside(tmp_path):
    touch(tmp_path / "blobs" / "0123", tmp_path / "a.jpg")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "cat.jpg").symlink_to("../blobs/0123")  # as download caches keep files
    (tmp_path / "named" / "dog.txt").symlink_to("../blobs/0123")
    listing = find(tmp_path)
    assert names(listing, tmp_path) == ["a.jpg", "named/cat.jpg"]
    assert listing.ignored == 2


def test_a_root_may_be_a_link(tmp_path):
    touch(tmp_path / "d" / "a.jpg")
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "link.jpg").symlink_to("d/a.jpg")
    assert names(find([tmp_path / "link"]), tmp_path) == ["link/a.jpg"]
    assert names(find([tmp_path / "link.jpg"]), tmp_path) == ["link.jpg"]


def test_dangling_links(tmp_path):
    (tmp_path / "a.jpg").symlink_to("gone")
    (tmp_path / "a.txt").symlink_to("gone")
    listing = find(tmp_path)
    assert list(reasons(listing)) == ["a.jpg"]
    assert "does not exist" in reasons(listing)["a.jpg"]
    assert listing.ignored == 1


def test_pipes_and_links_to_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    listing = find([tmp_path, tmp_path / "pipe"])
    assert not listing.images
    assert sorted(reasons(listing)) == ["pipe", "pipe.jpg", "zero.jpg"]
    assert listing.ignored == 1


def test_missing_roots_are_listed(tmp_path):
    touch(tmp_path / "a.jpg")
    listing = find([tmp_path / "gone", tmp_path / "a.jpg", "a\0b", tmp_path / "a.jpg" / "x"])
    assert names(listing, tmp_path) == ["a.jpg"]
    assert [skipped.path.name for skipped in listing.skipped] == ["gone", "a\0b", "x"]


def test_unreadable_folder(tmp_path, monkeypatch):
    touch(tmp_path / "a.jpg", tmp_path / "locked" / "b.jpg", tmp_path / "z.jpg")
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(folder.os, "scandir", scandir)
    listing = find(tmp_path)
    assert names(listing, tmp_path) == ["a.jpg", "z.jpg"]
    assert reasons(listing) == {"locked": "it may not be read by this user"}


def test_a_folder_that_vanishes_meanwhile(tmp_path, monkeypatch):
    touch(tmp_path / "d" / "a.jpg", tmp_path / "z.jpg")
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


def test_names_that_are_not_utf8(tmp_path):
    top = os.fsencode(tmp_path)
    Path(os.fsdecode(top + b"/\xff.jpg")).write_bytes(b"x")
    Path(os.fsdecode(top + b"/\xfe")).mkdir()
    Path(os.fsdecode(top + b"/\xfe/in.jpg")).write_bytes(b"x")
    Path(os.fsdecode(top + b"/\xfd.txt")).write_bytes(b"x")
    touch(tmp_path / "ö.jpg")
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


def test_require(tmp_path):
    touch(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageRejected, match=r"1 other files, 1 skipped .*a\.jpg: a pipe.*\.png"):
        find(tmp_path).require()
    touch(tmp_path / "b.jpg")
    listing = find(tmp_path)
    assert listing.require() is listing


def test_paths_are_a_list_of_path():
    paths = Paths(["a/1.jpg", "a/2.jpg", "b.jpg"])
    assert len(paths) == 3
    assert paths[1] == Path("a/2.jpg")
    assert paths[-1] == Path("b.jpg")
    assert paths[:2] == [Path("a/1.jpg"), Path("a/2.jpg")]
    assert paths == Paths(["a/1.jpg", "a/2.jpg", "b.jpg"])
    assert paths != [Path("b.jpg")]
    assert next(reversed(paths)) == Path("b.jpg")
    assert Path("b.jpg") in paths
    assert repr(paths) == "<3 paths: 'a/1.jpg', 'a/2.jpg', 'b.jpg'>"
    assert "\x1b" not in repr(Paths(["\x1b[2J"]))
    with pytest.raises(IndexError):
        paths[3]


def test_memory_is_little_more_than_the_paths(tmp_path):
    """Per picture: its path's text (49 bytes of overhead), two list entries, the sort key while sorting."""
    import tracemalloc

    touch(*(tmp_path / f"{i:06d}.jpg" for i in range(1500)))
    text = sum(len(str(tmp_path)) + 1 + 10 + 49 + 8 for _ in range(1500))
    find(tmp_path)
    tracemalloc.start()
    listing = find(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing.images) == 1500
    assert kept < 1.4 * text + 40_000
    assert peak < kept + 1500 * 260


def test_skipped_keeps_the_path_as_it_is():
    assert Skipped(Path("a"), "b").path == Path("a")
