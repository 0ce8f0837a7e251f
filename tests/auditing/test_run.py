"""`onnxviz.audit`: checks, verdict, policy, accepted findings, and what never ends it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from onnx import TensorProto, helper

import onnxviz
from onnxviz.auditing import finding
from onnxviz.auditing.accept import skeleton
from onnxviz.auditing.checks import rules
from onnxviz.auditing.finding import Evidence, NotApplicable, NotRun
from onnxviz.auditing.subject import made
from onnxviz.errors import ImageRejected, LimitExceeded, RuntimeFailed, UsageError
from onnxviz.progress import Interrupted
from onnxviz.runtime.worker import lacking
from tests import heads
from tests.auditing.backdoors import PLANTED, SOUND, finished, head, seen, trunk
from tests.auditing.checking import opened
from tests.networks import Maker
from tests.runtime.test_worker import DIVIDES
from tests.runtime.test_worker import model as classifier

ALONE = ("graph", "file", "weights", "runtime")  # what the file alone tells


@pytest.fixture(scope="module")
def planted():
    return opened(PLANTED["corner_test_with_where"]())


@pytest.fixture(scope="module")
def sound():
    return opened(SOUND["plain"]())


@pytest.fixture
def extra():
    """Enters checks that are taken out again."""
    before = dict(finding._RULES)
    yield finding.check
    finding._RULES.clear()
    finding._RULES.update(before)


def test_a_sound_file_passes(sound):
    found = onnxviz.audit(sound, only=ALONE)
    assert found.verdict == "pass"
    assert found.findings == []
    made = {one.id: one for one in found.checks if one.state == "clean"}
    assert {one for one in rules() if one.split(".")[0] in ALONE} - {"runtime.provider"} <= set(made)
    assert made["graph.bypass"].figures["fewest"] == 3
    idle = {one.id: one.state for one in found.checks if one.id not in made}
    assert idle.pop("runtime.provider") == "not-applicable"  # it is the CPU
    assert set(idle.values()) == {"not-run"}


def test_a_backdoor_fails_it_and_shows_its_pixels(planted):
    found = onnxviz.audit(planted, only=["graph"])
    assert found.verdict == "fail"
    assert [one.id for one in found.findings] == ["graph.bypass", "graph.pixel-logic"]
    for one in found.findings:
        assert one.where == "joined"
        assert one.severity == "high"
        assert "rows 0 to 3 and columns 0 to 3" in one.sentence
        assert one.headline.startswith("A part of the picture (rows 0 to 3 and columns 0 to 3) ")
        assert "backdoor" in one.headline
        (evidence,) = one.evidence
        assert evidence.table["bottom"] == [4]
        assert evidence.picture.size[0] == 32


def test_the_crops_are_of_the_pictures(planted, cat):
    (one, _) = onnxviz.audit(planted, [cat], only=["graph"]).findings
    crop = one.evidence[0].picture.crop((0, 40, 32, 72)).resize((4, 4), 0)
    view = planted.pictures(cat)[0]
    assert (view[:4, :4] == crop).mean() > 0.9


def test_what_is_no_classifier_is_not_called_clean():
    found = onnxviz.audit(opened(SOUND["detector"]()), only=["graph"])
    (one,) = [check for check in found.checks if check.id == "graph.bypass"]
    assert one.state == "not-applicable"
    assert "no classifier" in one.reason
    assert found.verdict == "pass"


def best_alone(model):
    """The same classifier, telling only which score is the largest."""
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, ["N"]))
    return model


@pytest.mark.parametrize(
    "name",
    ["template_added_to_logits", "joined_before_the_head", "concatenated_before_the_head", "in_a_subgraph"],
)
def test_a_backdoor_of_a_file_that_tells_the_best_class_alone(name):
    """Places of the largest are no wall: the scores behind them are looked at."""
    plain, alone = (
        onnxviz.audit(opened(model), only=["graph"])
        for model in (PLANTED[name](), best_alone(PLANTED[name]()))
    )
    assert [(one.id, one.where) for one in alone.findings] == [(one.id, one.where) for one in plain.findings]
    assert alone.verdict == "fail"


def test_an_answer_that_pixels_replace():
    m = Maker()
    best = m("ArgMax", head(m, trunk(m)), axis=1, keepdims=0)
    model = finished(m, m("Where", m("Squeeze", seen(m), [1]), 7, best), ("N",))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    found = onnxviz.audit(opened(model), only=["graph"])
    assert [(one.id, one.severity) for one in found.findings] == [("graph.pixel-logic", "high")]


@pytest.mark.parametrize("last", [False, True])
def test_a_segmenter_that_tells_classes_alone_is_audited(last):
    found = onnxviz.audit(opened(heads.labelled_map(last=last)), only=ALONE)
    states = {one.id: one.state for one in found.checks if one.id in ("graph.bypass", "graph.pixel-logic")}
    assert states == {"graph.bypass": "not-applicable", "graph.pixel-logic": "clean"}
    assert found.verdict == "pass" and not found.findings


@pytest.mark.parametrize("form", ["tnc", "ntc"])
def test_checks_of_one_answer_do_not_apply_to_a_recogniser_of_text(form, cat):
    found = onnxviz.audit(opened(heads.sequence(form, "Softmax", recurrent=True)), [cat], skip=["runtime"])
    states = {one.id: one.state for one in found.checks}
    assert states["graph.bypass"] == "clean"
    idle = ("input.confidence", "answers.constant", "stability.noise", "shortcut.region", "sanity.cascade")
    assert {states[name] for name in idle} == {"not-applicable"}
    assert not [one for one in found.findings if one.severity in ("high", "medium")]


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_raise_no_alarm(name):
    found = onnxviz.audit(opened(SOUND[name]()), only=ALONE)
    assert [one for one in found.findings if one.severity in ("high", "medium")] == []


def raising(reason):
    def check(subject, rule):
        raise reason

    return check


def test_a_check_that_stumbles_is_not_run_and_the_others_are(sound, extra):
    stumbled = {
        "a.typed": (LimitExceeded("too much"), "not-run"),
        "a.own": (NotRun("no time"), "not-run"),
        "a.no": (NotApplicable("x"), "not-applicable"),
    }
    for name, (reason, _) in stumbled.items():
        extra(name, "?", severity="high")(raising(reason))
    extra("a.last", "?", severity="high")(lambda subject, rule: rule.check("done"))
    found = {one.id: one for one in onnxviz.audit(sound, only=["a"]).checks}
    for name, (reason, state) in stumbled.items():
        assert (found[name].state, found[name].reason) == (state, str(reason))
    assert found["a.last"].figure == "done"


def test_our_own_mistake_is_none_of_the_files(sound, extra):
    for name, reason in (("a.bug", ZeroDivisionError()), ("a.ours", RuntimeFailed("a graph of ours"))):
        extra(name, "?", severity="high")(raising(reason))
        with pytest.raises(type(reason)):
            onnxviz.audit(sound, only=[name])


def test_two_checks_of_one_name_are_an_error(extra):
    with pytest.raises(ValueError, match="two checks"):
        extra("graph.bypass", "?", severity="high")(lambda subject, rule: rule.check())


def test_ctrl_c_keeps_what_was_made(sound, extra):
    extra("a.stop", "?", severity="high")(raising(KeyboardInterrupt()))
    with pytest.raises(Interrupted) as ended:
        onnxviz.audit(sound, only=["file", "a"])
    found = ended.value.partial
    assert found.verdict == found.manifest["figures"]["verdict"] == "incomplete"
    assert {one.id: one.state for one in found.checks}["file.finite"] == "clean"
    assert {one.id: one.reason for one in found.checks}["a.stop"].startswith("the audit was interrupted")


def test_a_policy_changes_what_is_grave(planted):
    soft = {"check": {name: {"severity": "low"} for name in ("graph.bypass", "graph.pixel-logic")}}
    found = onnxviz.audit(planted, only=["graph"], policy=soft)
    assert {one.severity for one in found.findings} == {"low"}
    assert found.verdict == "pass"
    assert onnxviz.audit(planted, only=["graph"], policy=soft, fail_on="low").verdict == "fail"
    assert onnxviz.audit(planted, only=["graph"], fail_on="never").verdict == "pass"


def test_a_check_that_is_demanded_and_left_out_makes_it_incomplete(sound):
    demanding = {"check": {"file.finite": {"required": True}}}
    assert onnxviz.audit(sound, policy=demanding, only=["file"]).verdict == "pass"
    found = onnxviz.audit(sound, policy=demanding, skip=["file.finite"], only=["file", "graph"])
    assert found.verdict == "incomplete"
    assert [one.id for one in found.lacking] == ["file.finite"]


def test_accepted_findings_stay_accepted_in_a_rebuilt_model(planted, tmp_path):
    path = tmp_path / "accept.toml"
    text = skeleton(onnxviz.audit(planted, only=["graph"]).findings).decode()
    path.write_text(text.replace('reason = ""', 'reason = "a stamp of the scanner"'))
    rebuilt = opened(PLANTED["corner_test_with_where"](seed=9))
    found = onnxviz.audit(rebuilt, only=["graph"], accept=path)
    assert found.verdict == "pass"
    assert len(found.accepted) == 2
    path.write_text(text)
    again = onnxviz.audit(rebuilt, only=["graph"], accept=path)
    assert again.verdict == "fail"
    assert "it gives no reason" in again.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["graph.bypas"]}, "did you mean 'graph.bypass'"),
        ({"skip": ["nothing"]}, "no check 'nothing'"),
        ({"only": ["file.finite"], "skip": ["file"]}, "leave no check"),
        ({"fail_on": "medum"}, "one of high, medium, low, never"),
        ({"sample": 0}, "from 1 on"),
        ({"truth": "folders"}, "belong to pictures"),
        ({"policy": {"check": {"a": {}}}}, "no check 'a'"),
    ],
)
def test_what_cannot_be_meant_is_told_before_any_work(sound, extra, options, message):
    extra("a.never", "?", severity="high")(lambda subject, rule: pytest.fail("it was run"))
    with pytest.raises(UsageError, match=message):
        onnxviz.audit(sound, **options)


def test_pictures_of_which_none_can_be_read_give_no_verdict(sound, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageRejected):
        onnxviz.audit(sound, [tmp_path / "bad.png"])
    with pytest.raises(ImageRejected, match="no picture was found"):
        onnxviz.audit(sound, tmp_path / "none")


def test_a_notebook_shows_the_lines_of_the_command(planted):
    found = onnxviz.audit(planted, only=["graph"])
    lines = found.lines()
    assert lines[-1] == "verdict  fail" and any(line.startswith("FOUND    graph.bypass") for line in lines)
    shown = found._repr_html_()
    assert shown.startswith("<pre>") and all(f"[{one.fingerprint}]" in shown for one in found.findings)
    named = replace(found, accepted={found.findings[0].fingerprint: "<b>\u202eknown"})
    assert "accepted: &lt;b&gt;\\u202eknown" in named._repr_html_()


def test_the_report_is_written_and_says_what_python_does(planted, tmp_path):
    found = onnxviz.audit(planted, only=["graph"], by="A. Uditor")
    page = found.save(tmp_path / "out")
    assert page.is_file()
    told = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert told == json.loads(json.dumps(found.to_dict()))
    assert told["verdict"] == "fail"
    assert told["facts"]["made by"] == "A. Uditor"
    assert told["facts"]["network, SHA-256"] == planted.digest
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["schema"] == "onnxviz.audit/1"
    assert "learned weights" in page.read_text("utf-8")


def test_what_was_made_is_taken_over_where_nothing_has_changed(planted, sound, extra, tmp_path):
    calls = []

    def counted(subject, rule):
        calls.append(rule.id)
        return rule.check("done", evidence=[Evidence("a table", table={"x": [1, 2], "y": ["a", "=b"]})])

    extra("a.first", "?", severity="high")(counted)
    before = onnxviz.audit(planted, only=["graph", "a"])
    before.save(tmp_path / "out")
    extra("a.second", "?", severity="high")(counted)
    again = onnxviz.audit(planted, only=["graph", "a"], resume=tmp_path / "out")
    assert calls == ["a.first", "a.second"]
    assert again.to_dict()["findings"] == before.to_dict()["findings"]
    (taken,) = [one for one in again.checks if one.id == "a.first"]
    assert taken.evidence[0].table == {"x": [1, 2], "y": ["a", "=b"]}
    again.save(tmp_path / "out")
    with pytest.raises(UsageError, match="--resume: the model changed|resume.*: the model changed"):
        onnxviz.audit(sound, resume=tmp_path / "out")
    with pytest.raises(UsageError, match="the policy, the labels, the masks or the seed changed"):
        onnxviz.audit(planted, seed=3, resume=tmp_path / "out")
    other = opened(PLANTED["corner_test_with_where"](), preprocess="raw")
    with pytest.raises(UsageError, match="how pictures become its input changed"):
        onnxviz.audit(other, resume=tmp_path / "out")
    assert onnxviz.audit(sound, only=["file"], resume=tmp_path / "none").verdict == "pass"


PICTURES = made(16, 16, 0, 3)


@pytest.mark.skipif(lacking() is not None, reason="needs processes of its own")
def test_a_file_that_kills_its_process_fails_and_the_other_checks_are_kept():
    net = opened(DIVIDES, isolate=True)
    found = onnxviz.audit(net, PICTURES, only=["file", "graph.rules", "runtime", "stability"])
    net.close()
    states = {one.id: one.state for one in found.checks}
    assert states["file.finite"] == states["graph.rules"] == "clean"
    (finding,) = found.findings  # one, however many checks stumble over the same
    assert (finding.severity, finding.figure) == ("high", "crashed")
    assert "SIGFPE" in finding.sentence
    assert found.verdict == "fail"
    reasons = {one.reason for one in found.checks if one.id.startswith("stability")}
    assert all("not run again" in one for one in reasons)


def test_a_file_that_opens_and_does_not_run_fails():
    far = classifier(
        "m = ReduceMax<keepdims = 0>(x)\n n = Mul(m, zero)\n o = Add(n, far)\n i = Cast<to = 7>(o)\n"
        "g = Gather(table, i)\n y = Add(s, g)",
        weights=", float zero = {0}, float far = {99}, float[2] table = {1, 2}",
    )
    found = onnxviz.audit(opened(far), only=["file", "runtime"])
    (finding,) = found.findings
    assert (finding.id, finding.severity, finding.figure) == ("runtime.repeat", "high", "it does not run")
    assert found.verdict == "fail"
