"""Mutate networks and see what onnxviz does with them: python3 tools/fuzz.py --seeds 0:10000 [--jobs 2] [--out DIR]

Every mutant (`tools/fuzzing/mutations.py`; the same for the same seed) is opened, its layers are listed, it is
inspected, it predicts, a gradient is taken, and two more of the techniques are tried, all in a child process of its
own with bounded memory and time. A network may work or be refused with a typed error; any other exception is raw, a
signal is a crash. One refused mutant in four is given to plain ONNX Runtime: that it runs what is
refused is a defect, too.

    python3 tools/fuzz.py --seeds 0:10000 --out found    a file and a text for the first of each bucket
    python3 tools/fuzz.py --minimise 8123 --out found    the smallest file that goes wrong in the same place
    python3 tools/fuzz.py --show 8123                    what was done to the network, and what each stage gave
    python3 tools/fuzz.py --files A.onnx B.onnx          the same stages on files of your own
    python3 tools/fuzz.py --calls 'Conv |Clip '          every odd call of an operator (`tools/fuzzing/calls.py`)

Ends with 1 if anything was raw, crashed or hung, or was refused though ONNX Runtime runs it. Not for Windows: it forks.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
ASKED = 4  # one refused mutant in so many goes to ONNX Runtime


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", default="0:200", metavar="A:B,C", help="which mutants: A:B,C (default: 0:200)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time (default: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the first mutant of each bucket goes")
    parser.add_argument("--minimise", type=int, metavar="SEED", help="make this mutant small")
    parser.add_argument("--show", type=int, metavar="SEED", help="tell about this mutant")
    parser.add_argument("--files", nargs="+", type=Path, metavar="FILE", help="files instead of mutants")
    parser.add_argument("--calls", metavar="PATTERN", help="odd calls that this matches instead of mutants")
    parser.add_argument("--all", action="store_true", help="try all techniques on each mutant, not two")
    parser.add_argument("--every", default="0/1", metavar="K/N", help="of the odd calls: each Nth, from K on")
    parser.add_argument("--isolate", action="store_true", help="open networks in processes of their own")
    parser.add_argument("--ask-all", action="store_true", help="give every refused mutant to ONNX Runtime")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # threads of the parent would be missing in its children

    from fuzzing import trial

    trial.warm()
    if options.minimise is not None:
        return _minimise(options.minimise, options.out)
    if options.show is not None:
        return _show(options.show, options.isolate)
    if options.files:
        cases = [(place, path.read_bytes()) for place, path in enumerate(options.files)]
        outcomes = list(trial.trials(cases, options.jobs, lambda seed: True, options.isolate))
        for outcome in sorted(outcomes, key=lambda one: one.seed):
            print(f"{options.files[outcome.seed].name}: {_told(outcome)}")
        return int(any(one.bad or one.false for one in outcomes))
    if options.calls is not None:
        return _run_calls(options)
    cases = trial.mutants(_seeds(options.seeds))
    if options.all:
        return _run(
            ((-1 - seed, content) for seed, content in cases), options, lambda number: str(-1 - number)
        )
    return _run(cases, options)


def _seeds(text: str) -> list[int]:
    """The numbers of 'A:B,C,...', B excluded."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        seeds += range(int(first), int(last) if last else int(first) + 1)
    return seeds


def _run_calls(options: argparse.Namespace) -> int:
    from fuzzing import calls

    first, step = map(int, options.every.split("/"))
    told: dict[int, str] = {}

    def cases() -> Iterator[tuple[int, bytes]]:
        for place, call in enumerate(calls.calls(options.calls)):
            if place % step == first:
                told[-1 - place] = call.told
                yield -1 - place, calls.model(call)

    return _run(cases(), options, told.get)


def _run(
    cases: Iterable[tuple[int, bytes]],
    options: argparse.Namespace,
    told: Callable[[int], str | None] = lambda _: None,
) -> int:
    from fuzzing import trial

    begun, verdicts, codes = time.monotonic(), Counter[str](), Counter[str]()
    buckets: dict[tuple[str, ...], list[trial.Outcome]] = {}
    asked = (lambda seed: True) if options.ask_all else (lambda seed: seed % ASKED == 0)
    crashed: list[tuple[int, bytes]] = []
    firsts: dict[tuple[str, ...], bytes] = {}
    contents: dict[int, bytes] = {}

    def noted() -> Iterator[tuple[int, bytes]]:
        for seed, content in cases:
            contents[seed] = content
            yield seed, content

    for outcome in trial.trials(noted(), options.jobs, asked, options.isolate):
        verdicts[outcome.verdict] += 1
        content = contents.pop(outcome.seed)
        if outcome.verdict == trial.REFUSED:
            codes[outcome.stages["load"]] += 1
        if outcome.verdict in (trial.CRASHED, trial.HUNG):
            crashed.append((outcome.seed, content))
        refusal = ("load", "false refusal", outcome.false[0]) if outcome.false is not None else None
        for key in filter(None, (outcome.bucket, refusal)):
            buckets.setdefault(key, []).append(outcome)
            firsts.setdefault(key, content)
    spent = time.monotonic() - begun
    number = verdicts.total()
    print(f"{number} networks in {spent:.0f} s, {1000 * spent / max(1, number):.0f} ms each\n")
    for name in (trial.WORKED, trial.REFUSED, *trial.BAD):
        print(f"{name:12}{verdicts[name]:8}")
        if name == trial.REFUSED:
            for code, many in codes.most_common():
                print(f"    {code:28}{many:6}")
    false = sum(len(found) for key, found in buckets.items() if key[1] == "false refusal")
    print(
        f"{'refused, and ONNX Runtime runs it':36}{false} (of every {1 if options.ask_all else ASKED}th asked)"
    )
    if crashed and not options.isolate:
        guarded = _guarded(crashed)
        if guarded is not None:
            print(f"{'crashed or hung, and typed with isolate=True':48}{guarded} of {len(crashed)}")
    for key, found in sorted(buckets.items(), key=lambda item: -len(item[1])):
        one = found[0]
        seeds = "; ".join(told(x.seed) or str(x.seed) for x in found[:6])
        print(f"\n{len(found):5}  {' | '.join(key)}   seeds {seeds}")
        print(
            "       "
            + (one.false[1] if one.false else one.text.strip().splitlines()[-1] if one.text else "")[:300]
        )
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"seed{one.seed}.onnx"
            path.write_bytes(firsts[key])
            about = told(one.seed) or _about(one.seed)
            path.with_suffix(".txt").write_text(f"{' | '.join(key)}\n{about}\n{one.text}\n")
    return int(bool(buckets))


def _guarded(cases: list[tuple[int, bytes]]) -> int | None:
    """How many of these networks end in a typed error or work where a process of their own holds the network."""
    import inspect

    from fuzzing import trial

    import onnxviz

    if "isolate" not in inspect.signature(onnxviz.load).parameters:
        return None
    outcomes = trial.trials(cases, isolate=True)
    return sum(not outcome.bad for outcome in outcomes)


def _about(seed: int) -> str:
    from fuzzing import mutations

    return f"{mutations.base(seed)}: {', '.join(mutations.mutant(seed)[1])}"


def _told(outcome: object) -> str:
    from fuzzing import trial

    assert isinstance(outcome, trial.Outcome)
    text = f"{outcome.verdict} {outcome.stages}"
    if outcome.text:
        text += f"\n{outcome.text}"
    if outcome.false:
        text += f"\nONNX Runtime runs it; refused by {outcome.false[0]}"
    return text


def _show(seed: int, isolate: bool) -> int:
    from fuzzing import mutations, trial

    outcome = next(trial.trials([(seed, mutations.mutant(seed)[0])], 1, lambda _: True, isolate))
    print(f"{_about(seed)}\n{_told(outcome)}")
    return int(outcome.bad)


def _minimise(seed: int, out: Path | None) -> int:
    from fuzzing import minimise

    content, done, outcome = minimise.minimised(seed)
    path = (out or Path()) / f"seed{seed}_small.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path}: {len(content)} bytes, {', '.join(done)}\n{_told(outcome)}")
    return int(outcome.bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
