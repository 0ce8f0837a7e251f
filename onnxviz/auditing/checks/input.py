"""Whether pictures come in as in training: the commonest reason of wrong answers that no error tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.auditing.finding import Check, Evidence, NotApplicable, NotRun, Rule, check
from onnxviz.auditing.statistics import mcnemar
from onnxviz.auditing.subject import Subject
from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.operators import BY_STATISTICS, computes
from onnxviz.graph.quantisers import of_node
from onnxviz.text import quoted

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.image.preprocessing import Preprocessing

_FULL: Final = 0.6  # of the quantiser's range, that pictures fill at least
_MOST: Final = 64  # pictures that other recipes are tried on; those that only show something, on
_SHOWN: Final = 24
_DRAWS: Final = 1000  # bootstrap samples
_SWAPPED: Final = 1.1  # declared over best, where that is the declared recipe in the other order of colours
_STILL: Final = 1e-3  # of a layer's median running variance: under it a channel says nothing
_NORMS: Final = slice(1, 6)  # the second to the sixth: the first sees the filters of the first layer alone
_SURE: Final = 0.001  # p, from which on another recipe is better
_ADVICE: Final = (
    "Ask for the recipe of training, or name it: --preprocess NAME|FILE, --channels BGR, --mean, --std."
)


@check(
    "input.range",
    "Do pictures fill the range that the file's own input quantiser holds?",
    severity="high",
    threshold=0.05,
    measure="share of input values beyond the range that the quantiser holds",
    needs=("network", "pictures"),
    limits="Of quantised files alone; a recipe that happens to fill the range is not seen to be wrong.",
)
def input_range(subject: Subject, rule: Rule) -> Check:
    """Share of input values beyond the quantiser's range, and share of the range that is used."""
    held = quantised(subject.net.model, subject.net.input.name)
    if held is None:
        raise NotApplicable("the file does not quantise its input by one scale")
    low, high = held
    recipe = subject.net.preprocessing
    beyond = count = 0
    least, most = np.inf, -np.inf
    for _, _, view in subject.each():
        x = np.asarray(recipe.normalise(view[None]), np.float32)
        slack = (high - low) / 255 / 2
        beyond += int(((x < low - slack) | (x > high + slack)).sum())
        count += x.size
        least, most = min(least, float(x.min())), max(most, float(x.max()))
    share = beyond / max(1, count)
    used = max(0.0, (min(most, high) - max(least, low)) / (high - low))
    figures = {"low": low, "high": high, "smallest": least, "largest": most, "beyond": share, "used": used}
    findings = []
    if share > rule.bar or used < _FULL:
        text = (
            f"pictures become {least:.3g} to {most:.3g}, and the file's input holds {low:.3g} to {high:.3g}: "
            f"{share:.1%} of the values are cut off, {used:.0%} of the range is used"
        )
        headline = "Pictures go in on another scale than the file was quantised for"
        span = high - low
        whole = replace(recipe, mean=(-low / span,) * recipe.count, std=(1 / span,) * recipe.count)
        name = "what they are to a network that takes this range for black to white"
        proof = _taken(subject, name, whole.invert)
        one = rule.finding(round(share, 4), subject.net.input.name, text, _ADVICE, proof, headline=headline)
        if share <= rule.bar:
            one = replace(one, figure=f"{used:.0%} of the range", threshold=f"at least {_FULL:.0%}")
        findings.append(one)
    return rule.check(f"{share:.1%} beyond, {used:.0%} used", findings, figures=figures)


def quantised(model: ir.Model, name: str) -> tuple[float, float] | None:
    """The real numbers that the quantiser behind an input holds; None where there is none of one scale."""
    value = next(one for one in model.graph.inputs if one.name == name)
    for node, at in value.uses():
        if computes(node.op_type) == "quantize" and at == 0:
            found = of_node(node)
            if found is not None and found.low is not None and found.high is not None and found.axis is None:
                return float(found.low[0]), float(found.high[0])
    return None


def recipes(declared: Preprocessing) -> dict[str, Preprocessing]:
    """The declared recipe and what it may have been taken for: usual scales in both orders of colours, cut alike."""
    from onnxviz.image.preprocessing import PRESETS

    if not declared.pictorial or declared.channels not in ("RGB", "BGR") or declared.codes is not None:
        return {"declared": declared}
    other = "BGR" if declared.channels == "RGB" else "RGB"
    found = {"declared": declared, other: declared.override(channels=other)}
    for preset in ("imagenet", "tensorflow", "unit", "raw"):
        base = PRESETS[preset]
        for order in ("RGB", "BGR"):
            turned = base.override(channels=order)
            name = f"{preset} {order}"
            recipe = replace(declared, mean=turned.mean, std=turned.std, channels=order, name=name)
            if not any(_alike(recipe, one) for one in found.values()):
                found[recipe.name] = recipe
    return found


def _others(subject: Subject) -> dict[str, Preprocessing]:
    """The recipes, where there are others than the declared one."""
    tried = recipes(subject.net.preprocessing)
    if len(tried) == 1:
        raise NotApplicable("only colour pictures that are scaled outside the file have other recipes")
    return tried


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    if one.channels != other.channels or not np.allclose(one.scale, other.scale, rtol=0.02):
        return False
    return np.allclose(one.bias, other.bias, rtol=0.02, atol=0.01)


@check(
    "input.statistics",
    "Do the first layers see what they saw in training?",
    severity="high",
    threshold=2.0,
    measure="distance from training's statistics under the declared recipe, in times of the best recipe's",
    needs=("network", "pictures"),
    least=8,
    limits="Only of files in which BatchNormalization was not folded into the layers before it; pictures of another "
    "kind than those of training shift the statistics too, under any recipe.",
)
def statistics(subject: Subject, rule: Rule) -> Check:
    """KL divergence of what enters early norms from their running statistics: the declared recipe against others."""
    norms = list(_norms(subject.net.model))[_NORMS]
    if len(norms) < 2:
        raise NotApplicable("the file holds no BatchNormalization to read training's statistics from")
    tried = _others(subject)
    moments = {name: _moments(subject, recipe, norms) for name, recipe in tried.items()}
    everyone = np.ones(len(moments["declared"]))
    apart = {name: _divergence(one, norms, everyone) for name, one in moments.items()}
    best = min(apart, key=lambda name: apart[name])
    rng = np.random.default_rng(subject.seed)
    weights = rng.multinomial(len(everyone), everyone / len(everyone), _DRAWS).astype(float)
    table = Evidence(
        "Divergence of the early layers' inputs from training's statistics, by recipe",
        table={"recipe": list(apart), "divergence": [round(value, 4) for value in apart.values()]},
    )
    ratio, findings = apart["declared"] / max(apart[best], 1e-9), []
    if best != "declared":
        ours, theirs = (
            [_divergence(moments[name], norms, w) for w in weights] for name in ("declared", best)
        )
        draws = [one / max(other, 1e-9) for one, other in zip(ours, theirs, strict=True)]
        lower = float(np.quantile(draws, 0.05))
        if lower > (_SWAPPED if best in ("RGB", "BGR") else rule.bar):
            text = (
                f"what enters the early layers lies {ratio:.1f} times as far from training's statistics under the "
                f"declared recipe ({subject.net.preprocessing.name}) as under {quoted(best)} (95 % of {_DRAWS} "
                f"resamples: over {lower:.1f})"
            )
            proof = _shown(subject, tried[best], best, table)
            findings.append(rule.finding(round(lower, 2), best, text, _ADVICE, **proof))
    told = f"{ratio:.2f} times the best of {len(apart)} recipes"
    return rule.check(told, findings, [table], {"divergence": apart})


def _shown(subject: Subject, best: Preprocessing, name: str, table: Evidence) -> dict[str, Any]:
    """The headline and the evidence where another recipe fits better."""
    swapped = best.channels != subject.net.preprocessing.channels
    wrong = ["with red and blue exchanged"] if swapped else []
    wrong += [] if name in ("RGB", "BGR") else [f"on another scale than in training ({quoted(name)} fits)"]
    taken = _taken(subject, f"what a network trained under {quoted(name)} takes them for", best.invert)
    return {"evidence": [*taken, table], "headline": f"Pictures go in {' and '.join(wrong)}"}


def _taken(subject: Subject, name: str, change: Callable[[np.ndarray], np.ndarray]) -> list[Evidence]:
    """The first pictures, and under them what a network takes them for that reads its input by `change`."""
    from onnxviz.figures.grids import Row, rows

    recipe = subject.net.preprocessing
    if not subject.views or not recipe.pictorial:
        return []
    others = [change(recipe.normalise(view[None]))[0] for view in subject.views]
    table = [Row("the pictures", subject.views), Row(name, others)]
    return [Evidence(f"The first pictures, and {name}", rows(table, side=160))]


def _norms(model: ir.Model) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each BatchNormalization of the main graph: its input, and the mean and variance of training."""
    for node in model.graph:
        if node.op_type in BY_STATISTICS and len(node.inputs) >= 5 and node.inputs[0] is not None:
            held = [constant(value) for value in node.inputs[3:5]]
            mean, var = (None if one is None else one.numpy().astype(np.float64) for one in held)
            if mean is not None and var is not None:
                yield str(node.inputs[0].name), mean, var


def _moments(
    subject: Subject, recipe: Preprocessing, norms: list[Any]
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Mean and mean square of each channel, by picture and norm."""
    names = [name for name, _, _ in norms]
    other = subject.under(recipe)
    found = []
    for place, _, view in other.each():
        if place >= _MOST:
            break
        arrays = other.net.run(recipe.normalise(view[None]), list(dict.fromkeys(names)))
        row = []
        for name in names:
            x = arrays[name][0].astype(np.float64)
            x = x.reshape(x.shape[0], -1)
            row.append((x.mean(axis=1), (x * x).mean(axis=1)))
        found.append(row)
    if len(found) < 2:
        raise NotRun("fewer than two pictures could be read")
    return found


def _divergence(
    moments: list[list[tuple[np.ndarray, np.ndarray]]], norms: list[Any], weights: np.ndarray
) -> float:
    """Mean over norms and channels of KL(N(of the pictures) ‖ N(of training))."""
    total = []
    share = weights / weights.sum()
    for number, (_, mean, var) in enumerate(norms):
        kept = var > _STILL * np.median(var)
        first = share @ np.stack([row[number][0] for row in moments])
        second = share @ np.stack([row[number][1] for row in moments])
        spread = np.maximum(second - first**2, 1e-12)
        off, own, seen = (first - mean)[kept], var[kept], spread[kept]
        total.append(float((0.5 * (np.log(own / seen) + (seen + off**2) / own - 1)).mean()))
    return float(np.mean(total))


@check(
    "input.truth",
    "Is another recipe right more often?",
    severity="high",
    threshold=_SURE,
    measure="p of McNemar's exact test of the best recipe against the declared",
    needs=("network", "classes", "pictures", "labels"),
    least=8,
    limits="Recipes that were not tried are not seen; those that were stand in the table.",
)
def truth(subject: Subject, rule: Rule) -> Check:
    """Accuracy under the declared recipe and others; McNemar's exact test of the best against the declared."""
    tried = _others(subject)
    right = {name: _right(subject.under(recipe)) for name, recipe in tried.items()}
    shares = {name: float(np.mean(one)) for name, one in right.items()}
    best = max(shares, key=lambda name: shares[name])
    fixed = int((right[best] & ~right["declared"]).sum())
    broken = int((~right[best] & right["declared"]).sum())
    p = mcnemar(fixed, broken)
    table = Evidence("Accuracy by recipe", table={"recipe": list(shares), "accuracy": list(shares.values())})
    findings = []
    if fixed > broken and p < rule.bar:
        text = (
            f"{quoted(best)} is right on {shares[best]:.1%} of the pictures, the declared recipe on "
            f"{shares['declared']:.1%}: {fixed} more right, {broken} fewer (p = {p:.2g})"
        )
        findings.append(rule.finding(p, best, text, _ADVICE, **_shown(subject, tried[best], best, table)))
    told = f"{shares['declared']:.1%} right; best {shares[best]:.1%}"
    return rule.check(told, findings, [table], {"accuracy": shares})


def _right(subject: Subject) -> np.ndarray:
    """Whether each picture with a known class is answered rightly, of the first `_MOST` × 8."""
    subject.images = subject.images[: 8 * _MOST]
    answers, classes = subject.answers, subject.truth or ()
    known = [i for i, place in enumerate(answers.place) if classes[place] is not None]
    if not known:
        raise NotRun("no picture that could be read has a known class")
    return np.array([answers.best[i, 0] == classes[answers.place[i]] for i in known])


@check(
    "input.confidence",
    "How sure is the network under each recipe?",
    severity="info",
    threshold="none: shown, never judged",
    needs=("network", "classes", "pictures"),
    limits="It cannot decide: on the bundled network BGR and other means differ by hundredths. Shown, never judged.",
)
def confidence(subject: Subject, rule: Rule) -> Check:
    """Mean entropy of the answers, in nats, under the declared recipe and others."""
    found = {}
    for name, recipe in recipes(subject.net.preprocessing).items():
        other = subject.under(recipe)
        rows = [other.probabilities([view])[0] for place, _, view in other.each() if place < _SHOWN]
        entropies = [-(row * np.log(np.maximum(row, 1e-12))).sum() for row in rows]
        found[name] = float(np.mean(entropies)) if rows else 0.0
    table = Evidence("Mean entropy by recipe", table={"recipe": list(found), "entropy": list(found.values())})
    return rule.check(f"entropy {found['declared']:.2f} nats", (), [table], {"entropy": found})
