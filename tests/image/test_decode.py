"""Reading ahead in threads: in order, bounded, and over when the generator is."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from onnxviz.errors import ImageRejected
from onnxviz.image.folder import decode, find
from onnxviz.image.io import read as read_image


def test_pictures_and_reasons_in_order(tmp_path):
    for i in range(12):
        Image.new("RGB", (4, 3), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "5.png").write_bytes(b"")
    listing = find(tmp_path)
    assert list(decode([], read_image)) == []
    results = list(decode(listing.images, read_image))
    assert [path for path, _ in results] == list(listing.images)
    for i, (path, image) in enumerate(results):
        if i == 5:
            assert isinstance(image, ImageRejected)
            assert path.name in str(image)
        else:
            assert isinstance(image, np.ndarray)
            assert image.shape == (3, 4, 3)
            assert image[0, 0, 0] == i


def test_order_holds_when_the_first_is_slow():
    done, another = [], threading.Event()

    def read(i):
        if i == 0:
            another.wait(60)
        done.append(i)
        another.set()
        return i * i

    assert list(decode(range(20), read, workers=4)) == [(i, i * i) for i in range(20)]
    assert done[0] != 0  # the others did not wait for it


def test_it_runs_in_several_threads():
    meeting = threading.Barrier(3, timeout=60)
    assert len(list(decode(range(3), lambda i: meeting.wait(), workers=3))) == 3


@pytest.mark.parametrize(("workers", "ahead"), [(1, 0), (1, 3), (3, 0), (4, 5)])
def test_it_looks_no_further_ahead_than_told(workers, ahead):
    taken = 0

    def endless():
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield i

    stream = decode(endless(), lambda i: i, workers=workers, ahead=ahead)
    assert taken == 0
    for given, (i, _) in enumerate(itertools.islice(stream, 30)):
        assert i == given
        assert taken <= given + workers + ahead
    stream.close()


class Picture:
    """Something that can be watched being forgotten."""


def test_memory_is_flat():
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()

    def read(i):
        picture = Picture()
        alive.add(picture)
        return picture

    most = 0
    for _, _picture in decode(range(300), read, workers=2, ahead=3):
        most = max(most, len(alive))
    # In the window, the one in hand, the one in hand before (its name is bound until the next comes), and one
    # a worker that has just been returned.
    assert most <= 2 + 3 + 2 + 2
    del _picture
    gc.collect()
    assert not alive


def test_a_reason_keeps_nothing_alive():
    kept = []

    def read(i):
        picture = Picture()
        kept.append(weakref.ref(picture))
        try:
            raise OSError
        except OSError as error:
            raise ImageRejected("no") from error

    results = list(decode(range(3), read, workers=1))
    gc.collect()
    assert all(isinstance(reason, ImageRejected) for _, reason in results)
    assert not any(ref() for ref in kept)


@pytest.mark.parametrize("ending", ["unused", "closed", "dropped", "broken"])
@pytest.mark.parametrize(("workers", "ahead"), [(2, 6), (1, 200)])
def test_its_threads_end_with_it(ending, workers, ahead):
    """And what waits is not begun any more."""
    before, started = threading.active_count(), []

    def read(i):
        started.append(i)
        time.sleep(0.005)
        if ending == "broken" and i == 2:
            raise ZeroDivisionError
        return i

    stream = decode(itertools.count(), read, workers=workers, ahead=ahead)
    if ending != "unused":
        assert [next(stream)[0], next(stream)[0]] == [0, 1]
        assert threading.active_count() > before
    if ending == "broken":
        with pytest.raises(ZeroDivisionError):
            next(stream)
    elif ending == "closed":
        stream.close()
    else:
        del stream
        gc.collect()
    assert threading.active_count() == before
    count = len(started)
    time.sleep(0.03)
    assert len(started) == count < 100
