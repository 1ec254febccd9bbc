"""Measures several ways of doing the same thing in turns, so that a busy machine slows all of them alike."""

import resource
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

Pair = tuple[str, str]  # the ratio is of the first's seconds over the second's


def cpu_seconds() -> float:
    """Seconds of CPU of this process and of the processes that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def in_turns(
    benchmark: Any,
    ways: Mapping[str, Callable[..., Any]],
    pairs: Sequence[Pair] | None = None,
    rounds: int = 5,
    warmup_rounds: int = 1,
    prepare: Callable[[str], tuple[Any, ...]] = lambda way: (),
    amounts: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What each way returns; every round calls all of them once, the first as pytest-benchmark's own target.

    Seconds are by the benchmark's timer. `extra_info` gets the medians of all ways as `seconds`, and for each
    pair the median over rounds of the ratio within a round, with its quartiles.

    Args:
        pairs: which ways are compared; None compares the first with each of the others.
        prepare: gives the arguments of a way, whose making isn't timed.
        amounts: how much each way does; ratios are of seconds for the same amount.
    """
    target, *others = ways
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    results: dict[str, Any] = dict.fromkeys(ways)
    timer = benchmark._timer  # the mark's

    def timed(way: str, *given: Any) -> None:
        began = timer()
        results[way] = ways[way](*given)
        seconds[way].append(timer() - began)

    def before() -> tuple[tuple[Any, ...], dict[str, Any]]:
        for way in others:
            timed(way, *prepare(way))
        return (target, *prepare(target)), {}

    benchmark.pedantic(timed, setup=before, rounds=rounds, warmup_rounds=warmup_rounds)
    if not benchmark.disabled:
        kept = {way: taken[-rounds:] for way, taken in seconds.items()}
        benchmark.extra_info["seconds"] = {way: median(taken) for way, taken in kept.items()}
        pairs = [(target, other) for other in others] if pairs is None else pairs
        scale = {way: (amounts or {}).get(way, 1.0) for way in ways}
        of_same = {way: [one / scale[way] for one in taken] for way, taken in kept.items()}
        benchmark.extra_info["compared"] = [compared(of_same, *pair) for pair in pairs]
    return results


def compared(seconds: Mapping[str, Sequence[float]], of: str, over: str) -> dict[str, Any]:
    """The ratio of one way's seconds over another's: the median and, of three rounds, quartiles."""
    ratios = [one / other for one, other in zip(seconds[of], seconds[over], strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 2 else (None,) * 3
    return {"of": of, "over": over, "ratio": median(ratios), "quartiles": [low, high], "rounds": len(ratios)}
