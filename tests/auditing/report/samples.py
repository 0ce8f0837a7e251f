"""Reports that look like real ones, and one whose every text is hostile."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

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


def layer_names() -> list[str]:
    names = ["stem"]
    for block in range(16):
        names += [f"blocks.{block}.{part}" for part in ("expand", "depthwise", "project", "add")]
    return [*names, "head", "classifier"]


def comparison(photos: list[tuple[str, np.ndarray]] | None = None) -> Page:
    """What `compare` has to tell of an int8 file with one spoilt layer."""
    rng = np.random.default_rng(0)
    names = layer_names()
    effect = rng.lognormal(-5, 0.8, len(names))
    worst = names.index("blocks.4.depthwise")
    effect[worst] = 0.6
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
    scenes = photos or [(f"photo {i}", scene(rng)) for i in range(12)]
    gallery = [
        Photo(
            name,
            picture,
            note=f"r = {0.41 + 0.04 * i:.2f}, floor {0.93:.2f}",
            answers=[("Egyptian cat", 0.62 - 0.03 * i), ("tabby", 0.2), ("tiger cat", 0.11), ("lynx", 0.02)],
            layers=[
                heat(f"{method}, {file}", label, blob(rng))
                for method in ("grad-cam", "smoothgrad")
                for file in ("fp32", "int8")
                for label in ("Egyptian cat", "tabby")
            ],
            mark="another class" if i < 2 else "",
        )
        for i, (name, picture) in enumerate(scenes)
    ]
    clipping = Finding(
        id="compare.clipping",
        severity="medium",
        figure=0.031,
        threshold=0.001,
        where="blocks.4.depthwise",
        sentence="3.1 % of the values of blocks.4.depthwise lie beyond the range that its quantiser can hold.",
        advice="Recalibrate with pictures like those of use, or with a percentile; the range is −6.1 to 5.9.",
    )
    layer = Finding(
        id="compare.layer",
        severity="high",
        figure=float(share[worst]),
        threshold=0.6,
        where="blocks.4.depthwise",
        sentence="One layer, blocks.4.depthwise, makes nearly all of the difference.",
        advice="Exclude it from quantisation (0.8 % of the multiplications), or recalibrate it.",
        evidence=(
            Evidence(
                "What the layer's values are, and what its quantiser can hold.", picture=scene(rng, 320)
            ),
        ),
    )
    answers = Finding(
        id="compare.answers",
        severity="high",
        figure="0.61 (0.44 to 0.75)",
        threshold=0.95,
        where="",
        sentence="Where the fp32 file is sure, the int8 file gives another class for 39 % of the photos.",
        advice="See the layers below; an exclude list of one restores 97 %.",
        evidence=(
            Evidence(
                "The photos whose class changed, worst first.",
                table={
                    "photo": ["cat.png", "coffee.png"],
                    "fp32": ["Egyptian cat", "espresso"],
                    "int8": ["lynx", "cup"],
                },
            ),
        ),
    )
    checks = [
        Check("compare.input", "Do both take the same pictures the same way?", "clean", figure="same recipe"),
        Check("compare.matching", "Are both the same network?", "clean", figure=1.0, threshold=0.9),
        Check(
            "compare.answers",
            "Do both give the same answers?",
            "found",
            figure=0.61,
            threshold=0.95,
            findings=(answers,),
            limits="Of 68 photos 36 have a margin of 0.1 or more; a share under 3 % cannot be told from none.",
        ),
        Check(
            "compare.layer",
            "Is it one layer?",
            "found",
            findings=(layer,),
            figure=float(share[worst]),
            threshold=0.6,
        ),
        Check(
            "compare.clipping",
            "Do values lie beyond their quantiser's range?",
            "found",
            figure=0.031,
            threshold=0.001,
            findings=(clipping,),
        ),
        Check(
            "compare.weights",
            "Are weights coarser than their bits?",
            "clean",
            figure=39.6,
            threshold="6 dB under prediction",
        ),
        Check(
            "compare.runtime",
            "Does ONNX Runtime run the file as it is written?",
            "not-run",
            reason="only 3 pictures were given; it needs 8",
        ),
        Check("compare.drift", "Do explanations move?", "not-applicable", reason="no gradient for this file"),
    ]
    return Page(
        kind="compare",
        title="efficientnet-lite0.onnx and efficientnet-lite0-int8.onnx",
        verdict="fail",
        lead=(
            "The int8 file gives another class for 39 % of the photos that fp32 is sure of, and one layer does it.",
        ),
        numbers=(
            Number("61 %", "same class where fp32 is sure", "95 % limits 44 to 75 %"),
            Number("8.0", "grey levels of noise that move answers as far"),
            Number("9.1 dB", "signal to noise at the logits", "−10·log10 Σe² gives 9.9"),
            Number("blocks.4", "holds 98 % of the loss"),
        ),
        when=WHEN,
        checks=checks,
        accepted={clipping.fingerprint: "known, until 2027-03-01: the camera clips there too"},
        sections=(
            Section(
                "What to do",
                [
                    Steps(
                        [
                            Text(
                                "Leave one layer in float: 18.1 dB and 97 % of the answers, for 0.8 % of the work.",
                                code='nodes_to_exclude = ["blocks.4.depthwise"]',
                            ),
                            Text("Or recalibrate: 3.1 % of blocks.4.depthwise lies beyond its range."),
                        ]
                    )
                ],
                "Measured, not guessed: each list was run.",
            ),
            Section(
                "Weights or activations?",
                [
                    Split(
                        [
                            Part("weights", 0.12, "24.1 dB alone"),
                            Part("clipping", 0.81, "10.0 dB alone"),
                            Part("rounding", 0.07, "26.3 dB alone"),
                        ],
                        "Noise power at the logits, by cause",
                    )
                ],
                "Which half of the quantisation costs the answers.",
            ),
            Section(
                "Layers",
                [
                    Table(
                        columns,
                        caption="One layer at a time as in B, all others as in A",
                        bars={"share of the loss": 1.0},
                        formats={
                            "share of the loss": ".1%",
                            "local effect": ".4f",
                            "SQNR, dB": ".1f",
                            "clipped": ".1e",
                            "weights, dB": ".1f",
                        },
                        hints={
                            "local effect": "‖z − z_A‖ / ‖z_A‖ at the logits",
                            "clipped": "share of A's values beyond B's range",
                        },
                        marked=(0,),
                        sort="share of the loss",
                        file="layers",
                    )
                ],
                "Which layers the loss comes from.",
            ),
            Section(
                "Explanations that moved",
                [Gallery(gallery, "Worst first: Spearman's r of both maps against the photo's own floor.")],
                "The same class in both files, explained.",
            ),
        ),
        facts={
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
        figures={"sqnr": 9.1},
        model="models/efficientnet-lite0-int8.onnx",
    )


def audited() -> Page:
    """Every check of the registry as an audit of sixty photos leaves it, one with a finding."""
    from onnxviz.auditing.checks import rules
    from onnxviz.auditing.registry import Found

    rng = np.random.default_rng(2)
    checks = []
    for rule in rules().values():
        findings: tuple[Finding, ...] = ()
        if rule.id == "shortcut.region":
            proof = Evidence(
                "The corner of pictures of 'crane'.", scene(rng, 224), {"picture": ["a.png"] * 3}
            )
            where = "crane: upper left corner"
            findings = (rule.finding(9, where, "9 pictures of 'crane' hang on a corner", evidence=(proof,)),)
        shown = Evidence("What is shown of a clean check", table={"step": ["a", "b"], "changed": [0, 1]})
        figure = "noise of 0.5 grey levels: 0 of 20 change, noise of 1 grey level: 1 of 20 change"
        checks.append(rule.check(Found(figure, findings=findings, evidence=(shown,))))
    photos = [Photo(f"set/photo-{i:02d}.png", scene(rng, 64), "class 12%", place=(i, i)) for i in range(60)]
    return Page(
        kind="audit",
        title="model",
        verdict="fail",
        lead=[
            "high: 9 pictures of 'crane' hang on a corner.",
            "A backdoor inside learned weights is not found.",
        ],
        numbers=[
            Number("1", "finding"),
            Number("27 of 27", "checks made"),
            Number("60", "pictures looked at"),
        ],
        facts={"network": "model (opset 18)", "network, SHA-256": "9c1c8f5a" * 8, "photos": 60, "seed": 0},
        when=WHEN,
        checks=checks,
        sections=[Section("Photos", [Gallery(photos)])],
        model="model.onnx",
        clauses=True,
    )


def album() -> Page:
    """Photos with places on a map: three in the left upper corner, six elsewhere."""
    rng = np.random.default_rng(1)
    places = [
        (0.0, 0.0),
        (0.05, 0.1),
        (0.1, 0.05),
        *((1.0 - 0.1 * i, 0.6 + 0.08 * i) for i in range(5)),
        (1.0, 0.0),
    ]
    photos = [
        Photo(
            f"set/photo {i}.png",
            scene(rng, 96),
            f"class {i % 3}",
            [("cat", 0.5)],
            [heat("grad-cam", "cat", blob(rng))],
            "wrong" if i == 4 else "",
            place,
        )
        for i, place in enumerate(places)
    ]
    return Page("report", "photos", sections=[Section("Photos", [Gallery(photos, "Wrong ones first.")])])


def hostile() -> Page:
    """A page of which every text is EVIL."""
    finding = Finding(
        EVIL,
        "high",
        EVIL,
        EVIL,
        EVIL,
        EVIL,
        EVIL,
        (Evidence(EVIL, np.zeros((4, 4, 3), np.uint8), {EVIL: [EVIL]}),),
    )
    photo = Photo(
        EVIL, np.zeros((8, 8, 3), np.uint8), EVIL, [(EVIL, 0.5)], [heat(EVIL, EVIL, np.eye(4))], EVIL
    )
    return Page(
        kind="audit",
        title=EVIL,
        verdict="fail",
        lead=[EVIL],
        numbers=[Number(EVIL, EVIL, EVIL)],
        facts={EVIL: EVIL},
        when=WHEN,
        checks=[
            Check(EVIL, EVIL, "found", EVIL, EVIL, EVIL, EVIL, (finding,), (Evidence(EVIL),), {EVIL: EVIL}),
            Check("a.b", EVIL, "not-run", EVIL),
            Check("a.c", EVIL, "not-applicable", EVIL),
        ],
        sections=[
            Section(
                EVIL,
                [
                    Text(EVIL, EVIL),
                    Steps([Text(EVIL)]),
                    Table(
                        {EVIL: [EVIL], "n": [1.0]},
                        EVIL,
                        {"n": 1.0},
                        {},
                        {EVIL: EVIL},
                        {"n": ["javascript:alert(1)"]},
                    ),
                    Split([Part(EVIL, 1.0, EVIL)], EVIL),
                    Gallery([photo], EVIL),
                    Figure(np.zeros((4, 4, 3), np.uint8), EVIL),
                ],
                EVIL,
            )
        ],
        figures={EVIL: EVIL},
        model=EVIL,
    )
