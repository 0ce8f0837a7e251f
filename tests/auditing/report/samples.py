"""Reports that look like real ones, and one whose every text is hostile."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from onnxviz.auditing.checks import rules
from onnxviz.auditing.finding import Check, Evidence, Finding
from onnxviz.auditing.report.page import (
    Figure,
    Gallery,
    Number,
    Page,
    Part,
    Photo,
    Section,
    Split,
    Steps,
    Table,
    Text,
    heat,
)

WHEN = datetime(2026, 11, 28, 13, 45, tzinfo=UTC)
EVIL = "</script><img src=x onerror=alert(1)>\u202egnp.exe\x1b[31m\x00 =1+1 ]]>"
BLACK = np.zeros((8, 8, 3), np.uint8)


def blob(rng: np.random.Generator, side: int = 28) -> np.ndarray:
    """A soft spot, as a map over a photo is."""
    y, x = np.mgrid[0:side, 0:side]
    cy, cx, r = rng.uniform(0.3, 0.7) * side, rng.uniform(0.3, 0.7) * side, side * rng.uniform(0.15, 0.3)
    spot: np.ndarray = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * r * r))
    return (spot + 0.05 * rng.random((side, side))).astype(np.float32)


def scene(rng: np.random.Generator, side: int = 224) -> np.ndarray:
    """A picture (side, side, 3) with something in it."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    picture = 0.5 + 0.3 * np.stack(waves, axis=-1)
    picture += 0.4 * np.asarray(heat("", "", blob(rng, side)).picture, np.float32) / 255
    return (np.clip(picture / 1.4, 0, 1) * 255).astype(np.uint8)


def comparison() -> Page:
    """What `compare` has to tell of an int8 file with one spoilt layer."""
    rng = np.random.default_rng(0)
    parts = [
        f"blocks.{block}.{part}" for block in range(16) for part in ("expand", "depthwise", "project", "add")
    ]
    names = ["stem", *parts, "head", "classifier"]
    place = "blocks.4.depthwise"
    effect = rng.lognormal(-5, 0.8, len(names))
    effect[names.index(place)] = 0.6
    share = effect**2 / (effect**2).sum()
    order = np.argsort(-share)
    columns = {
        "layer": [names[i] for i in order],
        "order": order.tolist(),
        "share of the loss": share[order],
        "local effect": effect[order],
        "SQNR, dB": 40 - 20 * np.log10(1 + effect[order] * 40),
        "clipped": rng.uniform(0, 2e-5, len(names)),
        "weights, dB": rng.uniform(38, 45, len(names)),
        "matched by": ["weights" if i % 3 else "values" for i in range(len(names))],
    }
    columns["clipped"][0] = 0.031
    formats = {"share of the loss": ".1%", "local effect": ".4f", "SQNR, dB": ".1f", "clipped": ".1e",
               "weights, dB": ".1f"}  # fmt: skip
    hints = {
        "local effect": "‖z − z_A‖ / ‖z_A‖ at the logits",
        "clipped": "share of A's values beyond B's range",
    }
    layers = Table(columns, "One layer at a time as in B, all others as in A", {"share of the loss": 1.0}, formats,
                   hints, marked=(0,), sort="share of the loss", file="layers")  # fmt: skip
    answers = [("Egyptian cat", 0.62), ("tabby", 0.2), ("tiger cat", 0.11), ("lynx", 0.02)]
    scenes = [scene(rng) for _ in range(12)]
    gallery = [
        Photo(
            f"photo {i}",
            picture,
            f"r = {0.41 + 0.04 * i:.2f}, floor {0.93:.2f}",
            answers,
            [
                heat(f"{method}, {file}", label, blob(rng))
                for method in ("grad-cam", "smoothgrad")
                for file in ("fp32", "int8")
                for label in ("Egyptian cat", "tabby")
            ],
            "another class" if i < 2 else "",
        )
        for i, picture in enumerate(scenes)
    ]
    clipping = Finding(
        "compare.clipping", "medium", 0.031, 0.001, place,
        "3.1 % of the values of blocks.4.depthwise lie beyond the range that its quantiser can hold.",
        "Recalibrate with pictures like those of use, or with a percentile; the range is −6.1 to 5.9.",
    )  # fmt: skip
    layer = Finding(
        "compare.layer", "high", float(share.max()), 0.6, place,
        "One layer, blocks.4.depthwise, makes nearly all of the difference.",
        "Exclude it from quantisation (0.8 % of the multiplications), or recalibrate it.",
        (Evidence("What the layer's values are, and what its quantiser can hold.", scene(rng, 320)),),
    )  # fmt: skip
    changed = {
        "photo": ["cat.png", "coffee.png"],
        "fp32": ["Egyptian cat", "espresso"],
        "int8": ["lynx", "cup"],
    }
    answer = Finding(
        "compare.answers", "high", "0.61 (0.44 to 0.75)", 0.95, "",
        "Where the fp32 file is sure, the int8 file gives another class for 39 % of the photos.",
        "See the layers below; an exclude list of one restores 97 %.",
        (Evidence("The photos whose class changed, worst first.", table=changed),),
    )  # fmt: skip
    few = "Of 68 photos 36 have a margin of 0.1 or more; a share under 3 % cannot be told from none."
    checks = [
        Check("compare.input", "Do both take the same pictures the same way?", "clean", figure="same recipe"),
        Check("compare.matching", "Are both the same network?", "clean", figure=1.0, threshold=0.9),
        Check("compare.answers", "Do both give the same answers?", "found", "", 0.61, 0.95, few, (answer,)),
        Check("compare.layer", "Is it one layer?", "found", "", layer.figure, 0.6, findings=(layer,)),
        Check("compare.clipping", "Do values lie beyond their quantiser's range?", "found", "", 0.031, 0.001,
              findings=(clipping,)),
        Check("compare.weights", "Are weights coarser than their bits?", "clean", "", 39.6, "6 dB under prediction"),
        Check("compare.runtime", "Does ONNX Runtime run the file as it is written?", "not-run",
              "only 3 pictures were given; it needs 8"),
        Check("compare.drift", "Do explanations move?", "not-applicable", "no gradient for this file"),
    ]  # fmt: skip
    causes = [
        Part("weights", 0.12, "24.1 dB alone"),
        Part("clipping", 0.81, "10.0 dB alone"),
        Part("rounding", 0.07, "26.3 dB alone"),
    ]
    float_ = "Leave one layer in float: 18.1 dB and 97 % of the answers, for 0.8 % of the work."
    todo = Steps([
        Text(float_, code='nodes_to_exclude = ["blocks.4.depthwise"]'),
        Text("Or recalibrate: 3.1 % of blocks.4.depthwise lies beyond its range."),
    ])  # fmt: skip
    split = Split(causes, "Noise power at the logits, by cause")
    moved = Gallery(gallery, "Worst first: Spearman's r of both maps against the photo's own floor.")
    return Page(
        "compare",
        "efficientnet-lite0.onnx and efficientnet-lite0-int8.onnx",
        "fail",
        [
            "The int8 file gives another class for 39 % of the photos that fp32 is sure of, and one layer does it."
        ],
        [
            Number("61 %", "same class where fp32 is sure", "95 % limits 44 to 75 %"),
            Number("8.0", "grey levels of noise that move answers as far"),
            Number("9.1 dB", "signal to noise at the logits", "−10·log10 Σe² gives 9.9"),
            Number("blocks.4", "holds 98 % of the loss"),
        ],
        {
            "A": "efficientnet-lite0.onnx",
            "A, SHA-256": "9c1c8f5a" * 8,
            "B": "efficientnet-lite0-int8.onnx",
            "B, SHA-256": "77aa01d2" * 8,
            "photos": "68, SHA-256 of all 1d0e…",
            "made by": "R. Engineer",
            "onnxviz": "0.9.0",
            "ONNX Runtime": "1.32.0, CPUExecutionProvider",
            "machine": "x86-64, 2 cores, AVX-512 VNNI",
            "seed": 0,
        },
        WHEN,
        checks,
        {clipping.fingerprint: "known, until 2027-03-01: the camera clips there too"},
        sections=[
            Section("What to do", [todo], "Measured, not guessed: each list was run."),
            Section("Weights or activations?", [split], "Which half of the quantisation costs the answers."),
            Section("Layers", [layers], "Which layers the loss comes from."),
            Section("Explanations that moved", [moved], "The same class in both files, explained."),
        ],
        figures={"sqnr": 9.1},
        model="models/efficientnet-lite0-int8.onnx",
    )


def audited() -> Page:
    """Every check of the registry as an audit of sixty photos leaves it, one with a finding."""
    rng = np.random.default_rng(2)
    checks = []
    for rule in rules().values():
        findings: tuple[Finding, ...] = ()
        if rule.id == "shortcut.region":
            proof = Evidence("The corner of pictures of 'crane'.", scene(rng), {"picture": ["a.png"] * 3})
            where, told = "crane: upper left corner", "9 pictures of 'crane' hang on a corner"
            findings = (rule.finding(9, where, told, evidence=(proof,)),)
        shown = Evidence("What is shown of a clean check", table={"step": ["a", "b"], "changed": [0, 1]})
        figure = "noise of 0.5 grey levels: 0 of 20 change, noise of 1 grey level: 1 of 20 change"
        checks.append(rule.check(figure, findings=findings, evidence=(shown,)))
    photos = [Photo(f"set/photo-{i:02d}.png", scene(rng, 64), "class 12%", place=(i, i)) for i in range(60)]
    lead = [
        "high: 9 pictures of 'crane' hang on a corner.",
        "A backdoor inside learned weights is not found.",
    ]
    numbers = [
        Number("1", "finding"),
        Number("27 of 27", "checks made"),
        Number("60", "pictures looked at"),
    ]
    facts = {"network": "model (opset 18)", "network, SHA-256": "9c1c8f5a" * 8, "photos": 60, "seed": 0}
    sections = [Section("Photos", [Gallery(photos)])]
    return Page("audit", "model", "fail", lead, numbers, facts, WHEN, checks, sections=sections, model="model.onnx",
                clauses=True)  # fmt: skip


def laid() -> Page:
    """A gallery whose maps stand beside the photos."""
    rng = np.random.default_rng(3)
    photos = [
        Photo(
            f"photo {i}",
            scene(rng),
            "tabby 62% → lynx 31%",
            [("A: tabby", 0.62), ("B: lynx", 0.31)],
            [heat("grad-cam", file, blob(rng)) for file in ("A: tabby", "B: lynx")],
        )
        for i in range(3)
    ]
    return Page(
        "compare", "two files", sections=[Section("Where they look", [Gallery(photos, "Both.", laid=True)])]
    )


def album() -> Page:
    """Photos with places on a map: three in the left upper corner, six elsewhere."""
    rng = np.random.default_rng(1)
    elsewhere = [*((1.0 - 0.1 * i, 0.6 + 0.08 * i) for i in range(5)), (1.0, 0.0)]
    photos = []
    for i, place in enumerate([(0.0, 0.0), (0.05, 0.1), (0.1, 0.05), *elsewhere]):
        picture, layers = scene(rng, 96), [heat("grad-cam", "cat", blob(rng))]
        mark = "wrong" if i == 4 else ""
        photos.append(
            Photo(f"set/photo {i}.png", picture, f"class {i % 3}", [("cat", 0.5)], layers, mark, place)
        )
    return Page("report", "photos", sections=[Section("Photos", [Gallery(photos, "Wrong ones first.")])])


def hostile() -> Page:
    """A page of which every text is EVIL."""
    proof = Evidence(EVIL, BLACK, {EVIL: [EVIL]})
    finding = Finding(EVIL, "high", EVIL, EVIL, EVIL, EVIL, EVIL, (proof,))
    photo = Photo(EVIL, BLACK, EVIL, [(EVIL, 0.5)], [heat(EVIL, EVIL, np.eye(4))], EVIL)
    checks = [
        Check(EVIL, EVIL, "found", EVIL, EVIL, EVIL, EVIL, (finding,), (Evidence(EVIL),), {EVIL: EVIL}),
        Check("a.b", EVIL, "not-run", EVIL),
        Check("a.c", EVIL, "not-applicable", EVIL),
    ]
    links = {"n": ["javascript:alert(1)"]}
    blocks = [
        Text(EVIL, EVIL),
        Steps([Text(EVIL)]),
        Table({EVIL: [EVIL], "n": [1.0]}, EVIL, {"n": 1.0}, {}, {EVIL: EVIL}, links),
        Split([Part(EVIL, 1.0, EVIL)], EVIL),
        Gallery([photo], EVIL),
        Figure(BLACK, EVIL),
    ]
    said = {EVIL: EVIL}
    sections = [Section(EVIL, blocks, EVIL)]
    return Page("audit", EVIL, "fail", [EVIL], [Number(EVIL, EVIL, EVIL)], said, WHEN, checks, sections=sections,
                figures=said, model=EVIL)  # fmt: skip
