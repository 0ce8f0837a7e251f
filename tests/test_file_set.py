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

_CALLS = (
    "open",
    "write",
    "fsync",
    "close",
    "replace",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "listdir",
    "lstat",
    "fstat",
)


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


def _once(since: int) -> None:
    if since == 0:
        raise OSError(errno.ENOSPC, "fault")


def _for_good(since: int) -> None:
    if since >= 0:
        raise OSError(errno.EIO, "fault")


def _ctrl_c(since: int) -> None:
    if since == 0:
        raise KeyboardInterrupt


def _kill(since: int) -> None:
    if since == 0:
        os.kill(os.getpid(), signal.SIGKILL)


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
    figures = {
        "steps_done": steps,
        "loss_start": 2.0,
        "loss_end": 1.0,
        "style_loss_end": 1.0,
        "content_loss_end": 0.0,
    }
    manifest = {"schema": "onnxviz.style-train/1", "technique": "style-train", "figures": figures}
    return StyleTrained(
        np.ones((steps, 3), np.float32), manifest, tiny_cnn(seed=steps), grey, [Sample(grey, grey)]
    )


def _model(seed: int) -> ir.Model:
    return ir.serde.deserialize_model(tiny_cnn(seed=seed))


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


def saves(kind: str, net, pictures):
    """(the old save, the new save, the manifest's name) of a kind of result; each takes a folder."""
    other = [*pictures[1:], pictures[0]]
    if kind == "occlusion":
        made = [onnxviz.occlusion(net, path, window=16, stride=16) for path in pictures[:2]]
        return [lambda to, one=one: one.save(to / "o.png") for one in made], "o.json"
    if kind == "pages":  # three pages and values, then one page without
        return [lambda to, one=one: one.save(to / "p.png") for one in (_paged(3), _paged(1))], "p.json"
    if kind == "embed":
        made = [onnxviz.embed(net, paths) for paths in (pictures, other[:2])]
        return [lambda to, one=one: one.save(to / "e.npy") for one in made], "e.json"
    if kind == "neighbours":
        made = [onnxviz.neighbours(net, paths, k=1) for paths in (pictures, other[:2])]
        return [lambda to, one=one: one.save(to / "n.csv") for one in made], "n.json"
    if kind == "patches":
        made = [
            onnxviz.patches(net, paths, ["conv1"], channel=c, top=2)
            for paths, c in ((pictures, [0, 1]), (other, 2))
        ]
        return [lambda to, one=one: one.save(to / "patches") for one in made], "patches/manifest.json"
    if kind == "fool":
        made = [onnxviz.fool(net, paths, method="fgsm") for paths in (pictures[:2], pictures[0])]
        return [lambda to, one=one: one.save(to / "f.png") for one in made], "f.json"
    if kind == "style-train":
        return [lambda to, one=one: one.save(to / "s.onnx") for one in map(_trained, (1, 2))], "s.json"
    assert kind == "external"
    return [
        lambda to, m=m: save_model(m, to / "m.onnx", one_file_bytes=0) for m in map(_model, (1, 2))
    ], "m.onnx"


KINDS = ("occlusion", "pages", "embed", "neighbours", "patches", "fool", "style-train", "external")


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
    both, head = saves(request.param, tiny, pictures)
    return SimpleNamespace(old=both[0], new=both[1], head=head, kind=request.param)


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
_EACH = {"pages": 1, "external": 1, "patches": 7}
_ACTS = {"fault": _once, "dead disk": _for_good, "ctrl-c": _ctrl_c}


@pytest.mark.parametrize("act", _ACTS.values(), ids=_ACTS)
def test_whatever_call_fails_the_set_is_old_or_new_or_says_incomplete(set_of, prepared, faulty, act):
    head, ends = set_of.head, set()
    for at in range(1, 500, _EACH.get(set_of.kind, 1 if act is _once else 5)):
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
            assert act is _for_good, "what fails once is undone"
        if isinstance(raised, OutputRefused):
            assert ("what was there before is unchanged" in str(raised)) == (found == prepared.old), str(
                raised
            )
        assert raised is not None or found == prepared.new
        set_of.new(prepared.work)
        assert _seen(prepared.work) == prepared.new
        assert not [path for path in prepared.work.rglob("*") if path.name.startswith(".")]
        if stand_in.count < at:
            break
    assert stand_in.count < at < 400
    assert ends >= {"old", "new"} or act is not _once


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
        assert not [path for path in prepared.work.rglob("*") if path.name.startswith(".")]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    assert ends >= {"old", "incomplete"}


def _hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.EROFS])
def test_the_message_names_the_file_and_the_reason(tmp_path, faulty, number):
    _paged(3).save(tmp_path / "p.png")

    def fails(since):
        raise OSError(number, os.strerror(number))

    faulty(0, fails)
    with pytest.raises(
        OutputRefused, match=f"'.*p.(json|png)': {os.strerror(number)}; what was there before"
    ):
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
        with pytest.raises(
            OutputRefused, match=r"'p\.json' says that they are incomplete; run the command again"
        ):
            _paged(4).save(tmp_path / "p.png")
    assert done
    assert json.loads((tmp_path / "p.json").read_text())["incomplete"] is True
    _paged(1).save(tmp_path / "p.png")
    assert sorted(os.listdir(tmp_path)) == ["p.json", "p.png"]


def test_a_folder_that_a_failing_save_made_goes_again(tmp_path, faulty):
    faulty(12, _for_good)
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


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/etc/hostname", "sub/../../outside.txt", 3, "*/../../outside.txt"]
)
def test_a_manifest_cannot_name_files_to_remove_elsewhere(tmp_path, name):
    (tmp_path / "outside.txt").write_bytes(b"stays")
    folder = tmp_path / "in"
    _paged(1).save(folder / "p.png")
    manifest = json.loads((folder / "p.json").read_text())
    (folder / "p.json").write_text(json.dumps({**manifest, "written": ["*.png", name]}))
    _paged(1).save(folder / "p.png")
    assert (tmp_path / "outside.txt").exists() and Path("/etc/hostname").exists()


@pytest.mark.parametrize("name", ["photo.png", "notes.txt", "pets.png", "p.kept/photo.png", "p-linked.png"])
def test_a_strangers_manifest_cannot_name_the_users_files_to_remove(tmp_path, name):
    """What a set leaves bears its name, and lies in its folder."""
    folder, kept = tmp_path / "in", tmp_path / "kept"
    kept.mkdir()
    _paged(1).save(folder / "p.png")
    (folder / "p.kept").symlink_to(kept, target_is_directory=True)
    (kept / "photo.png").write_bytes(b"stays")
    if name == "p-linked.png":
        (folder / name).symlink_to(kept / "photo.png")
    elif "/" not in name:
        (folder / name).write_bytes(b"stays")
    manifest = json.loads((folder / "p.json").read_text())
    (folder / "p.json").write_text(json.dumps({**manifest, "written": ["*.png", name]}))
    _paged(1).save(folder / "p.png")
    assert (folder / name).read_bytes() == b"stays"


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


def _of(technique: str, values: int = 1) -> Paged:
    return Paged(
        np.zeros(values, np.float32), {"schema": f"onnxviz.{technique}/1", "technique": technique, "pages": 1}
    )


def test_a_result_of_another_technique_is_not_written_over(tmp_path):
    with FileSet(tmp_path / "a.json", tmp_path / "a.npy") as files:
        files.add(tmp_path / "a.npy", b"features")
        files.describe({"schema": "onnxviz.embed/1"})
    before = _seen(tmp_path)
    with pytest.raises(
        OutputRefused, match=r"'a\.json' and 'a\.npy' beside it belong to a result of 'embed'; choose"
    ):
        _of("occlusion").save(tmp_path / "a.png")
    assert _seen(tmp_path) == before
    _of("occlusion").save(tmp_path / "b.png")


def test_the_same_name_again_is_written_over_as_a_whole(tmp_path):
    """The user gave this very name both times: the second set replaces all of the first."""
    with FileSet(tmp_path / "a.json", tmp_path / "a.png") as files:
        for name in ("a.png", "a.npy", "a.sheet.png"):
            files.add(tmp_path / name, b"saliency")
        files.describe({"schema": "onnxviz.saliency/1"})
    _of("occlusion").save(tmp_path / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.npy", "a.png"]
    assert json.loads((tmp_path / "a.json").read_text())["technique"] == "occlusion"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b"an array"),
        ("a-2.png", b"a picture"),
        ("a.json", b'{"mine": 1}'),
        ("a.json", b"no JSON"),
        ("a.json", b"[]"),
    ],
)
def test_the_users_own_files_are_not_written_over(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    result = _of("occlusion")
    result.manifest["pages"] = 2
    with pytest.raises(OutputRefused, match=rf"{name}' is there already, and no manifest"):
        result.save(tmp_path / "a.png")
    assert _seen(tmp_path) == {name: content}


def test_what_came_beside_a_result_meanwhile_is_not_written_over(tmp_path):
    result = _of("occlusion")
    result.save(tmp_path / "a.png")
    (tmp_path / "a-2.png").write_bytes(b"mine")
    before = _seen(tmp_path)
    result.manifest["pages"] = 2
    with pytest.raises(OutputRefused, match=r"a-2\.png' is there already"):
        result.save(tmp_path / "a.png")
    assert _seen(tmp_path) == before


def test_a_file_that_stands_in_a_manifest_is_not_written_over_by_another_command(tmp_path):
    _of("style-train").save(tmp_path / "a.png")
    (tmp_path / "a.onnx").write_bytes(b"")
    manifest = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**manifest, "written": [*manifest["written"], "*.onnx"]}))
    for name in ("a.onnx", "a.json"):
        with pytest.raises(OutputRefused, match="belong"):
            write_atomic(tmp_path / name, b"")
    write_atomic(tmp_path / "b.onnx", b"")
