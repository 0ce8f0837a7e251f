"""Sets of files under faults: whatever call fails or dies, the set is the old one, the new one, or says incomplete."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

import onnxviz
from onnxviz import file_set, results
from onnxviz.errors import OutputRefused
from onnxviz.features import patch_pictures
from onnxviz.file_set import FileSet
from onnxviz.files import write_atomic
from onnxviz.graph.metadata import save as save_model
from onnxviz.synthesis.style_train import Sample, StyleTrained
from tests.networks import tiny_cnn

_CALLS = ("open", "write", "fsync", "close", "replace", "link", "unlink", "mkdir", "rmdir", "listdir",
          "lstat", "fstat")  # fmt: skip


class Stumbling:
    """Stands for `os` in the modules that write: the k-th call fails, once or for good, or ends the process."""

    def __init__(self, at: int, act) -> None:
        self.count, self._at, self._act = 0, at, act
        for name in _CALLS:
            setattr(self, name, self._counted(getattr(os, name)))

    def __getattr__(self, name: str):
        return getattr(os, name)

    def _counted(self, real):
        def call(*given, **options):
            self.count += 1
            if real is os.close:  # what fails to close is closed all the same
                real(*given)
            self._act(self.count - self._at)
            return None if real in (os.close, os.fsync) else real(*given, **options)

        return call


def _raises(error: BaseException, for_good: bool = False):
    def act(since: int) -> None:
        if since == 0 or (for_good and since > 0):
            raise error

    return act


def _kill(since: int) -> None:
    if since == 0:
        os.kill(os.getpid(), signal.SIGKILL)


_ONCE = _raises(OSError(errno.ENOSPC, "fault"))
_FOR_GOOD = _raises(OSError(errno.EIO, "fault"), for_good=True)


@pytest.fixture(scope="module")
def tiny():
    return onnxviz.load(tiny_cnn().SerializeToString(), provider="cpu", preprocess="unit")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return paths


def _trained(steps: int) -> StyleTrained:
    grey = np.full((16, 16, 3), steps, np.uint8)
    figures = dict.fromkeys(("loss_start", "loss_end", "style_loss_end", "content_loss_end"), 1.0)
    manifest = {"schema": "onnxviz.style-train/1", "technique": "style-train"}
    manifest["figures"] = {"steps_done": steps, **figures}
    values = np.ones((steps, 3), np.float32)
    return StyleTrained(values, manifest, tiny_cnn(seed=steps), grey, [Sample(grey, grey)])


def _external(seed: int) -> SimpleNamespace:
    """A network whose weights lie beside it."""
    model = ir.serde.deserialize_model(tiny_cnn(seed=seed))
    return SimpleNamespace(save=lambda path: save_model(model, path, one_file_bytes=0))


def _single(seed: int) -> SimpleNamespace:
    """One file, in pieces."""
    return SimpleNamespace(save=lambda path: write_atomic(path, [bytes([seed]), b"more"]))


class Paged(results.Result):
    """As many pages as its manifest says."""

    def picture(self):
        return self.pages()[0]

    def pages(self):
        return [
            Image.new("RGB", (4, 3), (self.manifest["pages"], i, 0)) for i in range(self.manifest["pages"])
        ]


def _paged(pages: int) -> Paged:
    values = np.zeros(pages, np.float32) if pages > 1 else None
    return Paged(values, {"schema": "onnxviz.attributions/1", "pages": pages})


# Where a kind of result is saved, its head, and the old result and the new one of a network and pictures.
KINDS = {
    "occlusion": ("o.png", "o.json", lambda net, old, new: [
        onnxviz.occlusion(net, paths[0], window=16, stride=16) for paths in (old, new)]),
    "pages": ("p.png", "p.json", lambda *_: [_paged(3), _paged(1)]),  # three pages and values, then one page without
    "embed": ("e.npy", "e.json", lambda net, old, new: [onnxviz.embed(net, old), onnxviz.embed(net, new[:2])]),
    "neighbours": ("n.csv", "n.json", lambda net, old, new: [
        onnxviz.neighbours(net, paths, k=1) for paths in (old, new[:2])]),
    "patches": ("patches", "patches/manifest.json", lambda net, old, new: [
        onnxviz.patches(net, paths, ["conv1"], channel=c, top=2) for paths, c in ((old, [0, 1]), (new, 2))]),
    "fool": ("f.png", "f.json", lambda net, old, new: [
        onnxviz.fool(net, paths, method="fgsm") for paths in (old[:2], new[0])]),
    "style-train": ("s.onnx", "s.json", lambda *_: [_trained(1), _trained(2)]),
    "external": ("m.onnx", "m.onnx", lambda *_: [_external(1), _external(2)]),
    "single": ("r.bin", "r.bin", lambda *_: [_single(1), _single(2)]),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def set_of(request, tiny, pictures, monkeypatch):
    """What is drawn is drawn once: only the writing is tested, many times over."""
    monkeypatch.setattr(results, "picture_bytes", _remembered(results.picture_bytes))
    monkeypatch.setattr(results.Result, "pages", _remembered(results.Result.pages))
    monkeypatch.setattr(patch_pictures, "overview", _remembered(patch_pictures.overview))
    drawn = _remembered(lambda result, progress: list(patch_pictures_sheets(result, progress=progress)))
    patch_pictures_sheets = patch_pictures.sheets
    monkeypatch.setattr(
        patch_pictures, "sheets", lambda result, progress: iter(drawn(result, progress=progress))
    )
    name, head, make = KINDS[request.param]
    old, new = make(tiny, pictures, [*pictures[1:], pictures[0]])
    both = {"old": lambda to: old.save(to / name), "new": lambda to: new.save(to / name)}
    return SimpleNamespace(**both, head=head, kind=request.param)


def _remembered(function):
    known: dict = {}

    def once(thing, *given, **options):
        key = thing.tobytes() if isinstance(thing, Image.Image) else id(thing)
        if key not in known:
            known[key] = function(thing, *given, **options), thing
        return known[key][0]

    return once


def _seen(folder: Path) -> dict[str, bytes]:
    """What a reader finds: all but hidden files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            found[name] = path.read_bytes()
    return found


def _hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def _says_incomplete(found: dict[str, bytes], head: str) -> bool:
    return head not in found or (head.endswith(".json") and json.loads(found[head]).get("incomplete") is True)


@pytest.fixture
def faulty(monkeypatch):
    def put(at: int, act) -> Stumbling:
        stand_in = Stumbling(at, act)
        monkeypatch.setattr(file_set, "os", stand_in)
        monkeypatch.setattr(onnxviz.claims, "os", stand_in)
        return stand_in

    yield put
    monkeypatch.undo()


def _reset(work: Path, first: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(first, work)


@pytest.fixture
def prepared(set_of, tmp_path):
    """The folder to work in, the old set's, and what both sets look like."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    set_of.old(first)
    shutil.copytree(first, second)
    set_of.new(second)
    return SimpleNamespace(work=tmp_path / "work", first=first, old=_seen(first), new=_seen(second))


# Each call of the saves that differ in kind; of the others, which are made of the same calls, every so many.
_EACH = {"pages": 1, "external": 1, "single": 1, "patches": 7}
_ACTS = {"fault": _ONCE, "dead disk": _FOR_GOOD, "ctrl-c": _raises(KeyboardInterrupt())}


@pytest.mark.parametrize("act", _ACTS.values(), ids=_ACTS)
def test_whatever_call_fails_the_set_is_old_or_new_or_says_incomplete(set_of, prepared, faulty, act):
    head, ends = set_of.head, set()
    for at in range(1, 500, _EACH.get(set_of.kind, 1 if act is _ONCE else 5)):
        _reset(prepared.work, prepared.first)
        stand_in = faulty(at, act)
        raised: BaseException | None = None
        try:
            set_of.new(prepared.work)
        except (OutputRefused, KeyboardInterrupt) as error:
            raised = error
        finally:
            faulty(0, lambda since: None)
        found = _seen(prepared.work)
        if found == prepared.old:
            ends.add("old")
            assert raised is not None
        elif found == prepared.new:
            ends.add("new")
        else:
            ends.add("incomplete")
            assert _says_incomplete(found, head), at
            assert act is _FOR_GOOD, "what fails once is undone"
        if isinstance(raised, OutputRefused):
            unchanged = "what was there before is unchanged" in str(raised)
            assert unchanged == (found == prepared.old), str(raised)
        assert raised is not None or found == prepared.new
        set_of.new(prepared.work)
        assert _seen(prepared.work) == prepared.new
        assert _hidden(prepared.work) == []
        if stand_in.count < at:
            break
    assert stand_in.count < at < 400
    assert ends >= {"old", "new"} or act is not _ONCE


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_process_that_is_killed_in_a_save_leaves_old_or_new_or_says_incomplete(set_of, prepared, faulty):
    head, ends = set_of.head, set()
    for at in range(1, 500, _EACH.get(set_of.kind, 5)):
        _reset(prepared.work, prepared.first)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                faulty(at, _kill)
                set_of.new(prepared.work)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        found = _seen(prepared.work)
        ends.add("old" if found == prepared.old else "new" if found == prepared.new else "incomplete")
        assert found in (prepared.old, prepared.new) or _says_incomplete(found, head), at
        faulty(0, lambda since: None)
        set_of.new(prepared.work)
        assert _seen(prepared.work) == prepared.new
        assert _hidden(prepared.work) == []
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    assert ends >= {"old", "incomplete"} or set_of.kind == "single"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.EROFS])
def test_the_message_names_the_file_and_the_reason(tmp_path, faulty, number):
    _paged(3).save(tmp_path / "p.png")
    faulty(0, _raises(OSError(number, os.strerror(number)), for_good=True))
    told = f"'.*p.(json|png)': {os.strerror(number)}; what was there before"
    with pytest.raises(OutputRefused, match=told):
        _paged(2).save(tmp_path / "p.png")


def test_without_hard_links_a_set_that_cannot_be_brought_back_says_incomplete(tmp_path, monkeypatch):
    _paged(3).save(tmp_path / "p.png")
    real, done = os.replace, []

    def replace(source, target):
        if Path(target).name == "p-2.png":
            raise OSError(errno.EIO, "Input/output error")
        done.append(target)
        real(source, target)

    def link(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        _paged(3).save(tmp_path / "p.png")
        patch.setattr(os, "replace", replace)
        told = r"'p\.json' says that they are incomplete; run the command again"
        with pytest.raises(OutputRefused, match=told):
            _paged(4).save(tmp_path / "p.png")
    assert done
    assert json.loads((tmp_path / "p.json").read_text())["incomplete"] is True
    _paged(1).save(tmp_path / "p.png")
    assert sorted(os.listdir(tmp_path)) == ["p.json", "p.png"]


def test_a_folder_that_a_failing_save_made_goes_again(tmp_path, faulty):
    faulty(12, _FOR_GOOD)
    with pytest.raises(OutputRefused):
        _paged(1).save(tmp_path / "a" / "b" / "p.png")
    faulty(0, lambda since: None)
    _paged(1).save(tmp_path / "a" / "b" / "p.png")
    assert _hidden(tmp_path) == []


def test_what_an_earlier_run_wrote_and_this_one_does_not_goes(tmp_path):
    """Pages and values; never what the user asked for by another name, nor what stands in no manifest of ours."""
    _paged(3).save(tmp_path / "p.png")
    (tmp_path / "p-9.png").write_bytes(b"the user's own")
    _paged(1).save(tmp_path / "p.jpg")
    assert sorted(os.listdir(tmp_path)) == ["p-9.png", "p.jpg", "p.json", "p.png"]


def _naming(manifest: Path, *names) -> None:
    """Let a manifest say that these were written, too."""
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "written": [*told["written"][:1], *names]}))


INSIDE = ["photo.png", "notes.txt", "pets.png", "p.kept/photo.png", "p-linked.png"]
ELSEWHERE = ["../outside.txt", "/etc/hostname", "sub/../../outside.txt", 3, "*/../../outside.txt"]


@pytest.mark.parametrize("name", INSIDE + ELSEWHERE)
def test_a_strangers_manifest_cannot_name_the_users_files_to_remove(tmp_path, name):
    """What a set leaves bears its name, and lies in its folder."""
    folder, kept = tmp_path / "in", tmp_path / "kept"
    kept.mkdir()
    _paged(1).save(folder / "p.png")
    (folder / "p.kept").symlink_to(kept, target_is_directory=True)
    for path in (tmp_path / "outside.txt", kept / "photo.png", *(folder / one for one in INSIDE[:3])):
        path.write_bytes(b"stays")
    (folder / "p-linked.png").symlink_to(kept / "photo.png")
    _naming(folder / "p.json", name)
    _paged(1).save(folder / "p.png")
    for path in (tmp_path / "outside.txt", *(folder / one for one in INSIDE)):
        assert path.read_bytes() == b"stays"
    assert Path("/etc/hostname").exists()


def test_a_strangers_manifest_cannot_name_other_kinds_of_files_in_a_folder(tmp_path):
    names = ("overview.png", "old.png", "thesis.tex")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    old = {"schema": "onnxviz.patches/1", "written": names}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with FileSet(tmp_path / "manifest.json") as files:
        files.add(tmp_path / "overview.png", b"new")
        files.describe({"schema": "onnxviz.patches/1"})
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "overview.png", "thesis.tex"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.json")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
    with pytest.raises(OutputRefused, match="no manifest of onnxviz"):
        _of("occlusion").save(tmp_path / "a.png")


def test_a_set_can_be_renamed_as_one(tmp_path):
    _paged(3).save(tmp_path / "p.png")
    for path in tmp_path.iterdir():
        path.rename(tmp_path / path.name.replace("p", "q", 1))
    _paged(1).save(tmp_path / "q.png")
    assert sorted(os.listdir(tmp_path)) == ["q.json", "q.png"]


def test_parts_of_a_dead_run_go_and_those_of_others_stay(tmp_path):
    dead = tmp_path / ".p.onnxviz.part"
    dead.mkdir()
    (dead / "1").write_bytes(b"left")
    (tmp_path / ".p.png.part").write_bytes(b"a browser's")
    other = tmp_path / ".q.onnxviz.part"
    other.mkdir()
    _paged(1).save(tmp_path / "p.png")
    assert [path.name for path in sorted(_hidden(tmp_path))] == [".p.png.part", ".q.onnxviz.part"]


def _of(technique: str, pages: int = 1) -> Paged:
    manifest = {"schema": f"onnxviz.{technique}/1", "technique": technique, "pages": pages}
    return Paged(np.zeros(1, np.float32), manifest)


def _earlier(folder: Path, technique: str, *names: str) -> None:
    """What an earlier run wrote, the first of these asked for by name."""
    with FileSet(folder / "a.json", folder / names[0]) as files:
        for name in names:
            files.add(folder / name, b"earlier")
        files.describe({"schema": f"onnxviz.{technique}/1"})


def test_a_result_of_another_technique_is_not_written_over(tmp_path):
    _earlier(tmp_path, "embed", "a.npy")
    before = _seen(tmp_path)
    told = r"'a\.json' and 'a\.npy' beside it belong to a result of 'embed'; choose"
    with pytest.raises(OutputRefused, match=told):
        _of("occlusion").save(tmp_path / "a.png")
    assert _seen(tmp_path) == before
    _of("occlusion").save(tmp_path / "b.png")


def test_the_same_name_again_is_written_over_as_a_whole(tmp_path):
    """The user gave this very name both times: the second set replaces all of the first."""
    _earlier(tmp_path, "saliency", "a.png", "a.npy", "a.sheet.png")
    _of("occlusion").save(tmp_path / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.npy", "a.png"]
    assert json.loads((tmp_path / "a.json").read_text())["technique"] == "occlusion"


@pytest.mark.parametrize(
    ("name", "content", "earlier"),
    [
        ("a.npy", b"an array", False),
        ("a-2.png", b"a picture", False),
        ("a-2.png", b"a picture", True),
        ("a.json", b'{"mine": 1}', False),
        ("a.json", b"no JSON", False),
        ("a.json", b"[]", False),
    ],
)
def test_the_users_own_files_are_not_written_over(tmp_path, name, content, earlier):
    """Nor those that came beside a result meanwhile."""
    if earlier:
        _of("occlusion").save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    before = _seen(tmp_path)
    with pytest.raises(OutputRefused, match=rf"{name}' is there already, and no manifest"):
        _of("occlusion", pages=2).save(tmp_path / "a.png")
    assert _seen(tmp_path) == before


def test_a_file_that_stands_in_a_manifest_is_not_written_over_by_another_command(tmp_path):
    _of("style-train").save(tmp_path / "a.png")
    (tmp_path / "a.onnx").write_bytes(b"")
    _naming(tmp_path / "a.json", "*.onnx")
    for name in ("a.onnx", "a.json"):
        with pytest.raises(OutputRefused, match="belong"):
            write_atomic(tmp_path / name, b"")
    write_atomic(tmp_path / "b.onnx", b"")
