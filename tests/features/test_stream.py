"""Many images through one graph: order, refusals, batches, memory."""

from __future__ import annotations

import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from onnxviz.errors import ImageRejected, UsageError
from onnxviz.features import stream as module
from onnxviz.features.stream import plan, source_name, sources, stream
from tests import toys


def load(threads: int | None = None, **form):
    return toys.load(softmax=False, threads=threads, **form)


def chunks_of(net, images, **options):
    return stream(net, images, lambda: net.batched[0], key="whole", **options)


def run(net, images, **options):
    """(indices, logits, skipped) of all chunks together."""
    chunks = list(chunks_of(net, images, **options))
    logits = np.concatenate([chunk.arrays["logits"] for chunk in chunks if len(chunk.index)])
    index = np.concatenate([chunk.index for chunk in chunks])
    return index, logits, [one for chunk in chunks for one in chunk.skipped]


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [toys.photo(seed) for seed in range(21)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [None, 1, 4, 50])
def test_every_image_comes_out_once_and_in_order(photos, threads, batch):
    index, logits, skipped = run(load(threads), photos, batch=batch)
    assert index.tolist() == list(range(21))
    np.testing.assert_allclose(logits, toys.logits(np.stack(photos)), rtol=1e-5)
    assert not skipped


@pytest.mark.parametrize("form", toys.FORMS.values(), ids=toys.FORMS)
def test_odd_networks(photos, form):
    _, logits, _ = run(load(**form), photos)
    np.testing.assert_allclose(logits, toys.logits(np.stack(photos)), rtol=2e-3)


def test_a_batch_that_the_file_fixes_is_filled_up(photos, monkeypatch):
    net = load(batch=4)
    net.__dict__["batched"] = (net.model, 4)  # as if nothing could free it
    index, logits, _ = run(net, photos)
    assert index.tolist() == list(range(21))
    np.testing.assert_allclose(logits, toys.logits(np.stack(photos)), rtol=1e-5)


def test_unreadable_images_are_left_out_and_told(tmp_path, photos):
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for path, photo in zip(paths, photos, strict=False):
        Image.fromarray(photo).save(path)
    paths[0].write_bytes(b"")
    paths[4].write_bytes(paths[4].read_bytes()[:60])
    paths[9].unlink()
    index, logits, skipped = run(load(2), paths, batch=3)
    assert index.tolist() == [1, 2, 3, 5, 6, 7, 8]
    np.testing.assert_allclose(logits, toys.logits(np.stack(photos))[index], rtol=1e-5)
    assert [one.path for one in skipped] == [paths[0], paths[4], paths[9]]
    assert [str(one).count(one.path.name) for one in skipped] == [1, 1, 1]
    assert "empty" in skipped[0].reason
    # A chunk of nothing but refusals, and no images at all.
    (chunk,) = chunks_of(load(), [tmp_path / "none.png"] * 4, batch=4)
    assert (len(chunk.index), len(chunk.skipped)) == (0, 4)
    assert list(chunks_of(load(), [])) == []


def test_facts_of_the_originals():
    net = load()
    pictures = [np.random.default_rng(i).integers(0, 256, (20 + i, 40, 3), dtype=np.uint8) for i in range(3)]
    [chunk] = chunks_of(net, pictures, batch=3)
    assert chunk.sizes.tolist() == [[20, 40], [21, 40], [22, 40]]
    assert chunk.prints.tolist() == [zlib.crc32(net.preprocessing.view(one).tobytes()) for one in pictures]


def test_the_numbers_do_not_depend_on_threads_or_chance(net, photo_files, monkeypatch):
    def logits(threads):
        monkeypatch.setattr(net, "threads", threads)
        chunks = chunks_of(net, photo_files * 3, batch=2)
        return np.concatenate([next(iter(chunk.arrays.values())) for chunk in chunks])

    first = logits(1)
    np.testing.assert_array_equal(logits(2), first)
    np.testing.assert_array_equal(logits(4), first)


def test_progress_counts_images(photos):
    seen = []
    run(load(1), photos, batch=8, progress=lambda *told: seen.append(told))
    assert seen == [(8, 21, "images"), (16, 21, "images"), (21, 21, "images")]


def test_only_a_few_images_are_read_ahead():
    """A sequence of a million costs no more than what the workers hold."""
    asked = set()

    class Endless:
        def __len__(self):
            return 1_000_000

        def __getitem__(self, index):
            asked.add(index)
            return toys.photo(index % 7)

    chunks = chunks_of(load(2), Endless(), batch=4)
    for _ in range(3):
        next(chunks)
    chunks.close()
    assert len(asked) <= (3 + 2 * 2) * 4


def test_an_error_in_the_graph_reaches_the_caller(photos, monkeypatch):
    net = load()
    broken = net.compile(lambda: net.batched[0], key="whole", threads=1, spin=False)
    monkeypatch.setattr(broken, "_run", lambda *_: (_ for _ in ()).throw(ValueError("boom")))
    with pytest.raises(Exception, match="boom"):
        run(net, photos)


def test_plan_shares_memory_between_the_workers(monkeypatch):
    net = load(threads=4)
    monkeypatch.setattr(module.programs, "batch_size", lambda elements, largest: min(3, largest))
    assert plan(net, 1000) == (3, 1)
    monkeypatch.setattr(module.programs, "batch_size", lambda elements, largest: largest)
    assert plan(net, 1000) == (4, 8)
    assert plan(net, 12) == (4, 3)  # a few images are dealt to all workers
    assert plan(net, 1000, batch=2) == (4, 2)
    with pytest.raises(UsageError, match="at least 1"):
        plan(net, 10, batch=0)


def test_a_device_is_given_one_run_at_a_time(photos, monkeypatch):
    """Workers decode side by side; on a CPU they run so too, elsewhere in turn."""

    class Device:
        def __init__(self, provider, patience):
            self.provider, self.patience = provider, patience
            self.now, self.most, self.lock = 0, 0, threading.Lock()

        def __call__(self, feeds):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            end = time.monotonic() + self.patience
            while self.most < 4 and time.monotonic() < end:
                time.sleep(0.005)
            with self.lock:
                self.now -= 1
            return {"logits": np.zeros((len(feeds["image"]), 2), np.float32)}

    net = load(4)
    for provider, most, patience in (("CPUExecutionProvider", 4, 60), ("CUDAExecutionProvider", 1, 0.02)):
        device = Device(provider, patience)
        monkeypatch.setattr(net, "compile", lambda *_, device=device, **__: device)
        list(stream(net, photos, lambda: None, key="fake", batch=3))
        assert device.most == most


def test_sources_takes_folders_files_and_arrays(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        Image.fromarray(toys.photo()).save(file)
    (tmp_path / "notes.txt").write_text("no picture")
    array = toys.photo()
    assert sources(tmp_path).images == files
    mixed = sources([array, files[1], tmp_path])
    assert mixed.images[0] is array
    names = [source_name(one, i) for i, one in enumerate(mixed.images)]
    assert names == ["image 0", *map(str, (files[1], *files))]
    assert (mixed.ignored, len(sources(array).images)) == (1, 1)
    with pytest.raises(ImageRejected, match="no picture"):
        sources(tmp_path / "notes").require()
