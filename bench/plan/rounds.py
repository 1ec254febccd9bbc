"""The order in which cells are made: a small comparison of all regularizers first, then ever larger ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..options.words import joined
from .cost import Cost
from .plan import Cell, Plan

NAMED = 4  # regularizers in a sentence; more are counted
OWN_KINDS = ("generator", "samples", "guidance")  # of stages that cells of other generators don't share


@dataclass(frozen=True)
class Round:
    """Cells that make a comparison: one seed of all regularizers on one tokenizer with some generators."""

    dataset: str
    tokenizer: str
    generators: tuple[str, ...]
    seed: str
    cells: tuple[Cell, ...]


def rounds(plan: Plan, cells: Iterable[Cell], costs: Mapping[str, Cost]) -> list[Round]:
    """Cells in groups, in the order in which a leaderboard says most soonest.

    Seeds come one after the other. Within a seed, the first round of each dataset and tokenizer has all
    generators that need no training of their own and the cheapest that does; every other generator follows in
    a round of its own, the cheapest first. Held-out images belong to the first round of their dataset.

    Args:
        plan: the plan of the cells.
        cells: cells in the plan's order; skipped ones are left out.
        costs: estimates by stage id; a stage without an estimate, as one that is made, costs nothing.
    """
    wanted = [cell for cell in cells if cell.scores]
    trained = [cell for cell in wanted if not cell.real]
    held_out = {cell.dataset: cell for cell in wanted if cell.real}
    seeds = list(dict.fromkeys(cell.seed for cell in trained))
    generators = _cheapest_first(plan, trained, costs)
    groups: dict[tuple[int, int, str, str], list[Cell]] = defaultdict(list)
    for cell in trained:
        groups[seeds.index(cell.seed), generators[cell.generator], cell.dataset, cell.tokenizer].append(cell)
    found = []
    for (_, _, dataset, tokenizer), own in sorted(groups.items(), key=lambda group: group[0][:2]):
        labels = tuple(label for label in generators if any(cell.generator == label for cell in own))
        cells_of_round = sorted(own, key=lambda cell: labels.index(cell.generator))
        if dataset in held_out:
            cells_of_round.append(held_out.pop(dataset))
        found.append(Round(dataset, tokenizer, labels, own[0].seed, tuple(cells_of_round)))
    if held_out:  # nothing else is wanted
        found += [Round(cell.dataset, "", (), cell.seed, (cell,)) for cell in held_out.values()]
    return found


def compared(round: Round) -> str:
    """`none, kl and repa with gaussian and tarflow on vit, seed 0`; many regularizers are counted."""
    regularizers = list(dict.fromkeys(cell.regularizer for cell in round.cells if not cell.real))
    names = joined(regularizers) if len(regularizers) <= NAMED else f"{len(regularizers)} regularizers"
    return f"{names} with {joined(round.generators)} on {round.tokenizer}, seed {round.seed}"


def to_come(left: Sequence[Round], pending: int, cells: int) -> str:
    """`16 of 40 cells are done. To come: mar for seed 0, then seeds 1 and 2, for the spread.`

    Args:
        left: the rounds that aren't complete, in their order.
        pending: the number of cells without a record.
        cells: the number of all cells.
    """
    text = f"{cells - pending} of {cells} cells are done."
    if not left:
        return text
    seeds = list(dict.fromkeys(round.seed for round in left))
    now = [round for round in left if round.seed == seeds[0]]
    generators = joined(list(dict.fromkeys(label for round in now for label in round.generators)))
    ahead = [f"{generators or 'held-out images'} for seed {seeds[0]}"]
    if later := seeds[1:]:
        ahead.append(f"then seed{'s' if len(later) > 1 else ''} {joined(later)}, for the spread")
    return f"{text} To come: {', '.join(ahead)}."


def _cheapest_first(plan: Plan, cells: Sequence[Cell], costs: Mapping[str, Cost]) -> dict[str, int]:
    """The place of each generator's round within a seed, by label, in the order of their cells."""
    flops: dict[str, list[float]] = defaultdict(list)
    trained: set[str] = set()
    for cell in cells:
        own = [stage for stage in plan.needed([cell]) if stage.kind in OWN_KINDS]
        flops[cell.generator].append(sum(costs[s.id].flops or 0 for s in own if s.id in costs))
        if any(_trains(plan, stage.id) for stage in own if stage.kind == "generator"):
            trained.add(cell.generator)
    order = sorted(flops, key=lambda label: (label in trained, fmean(flops[label])))
    free = len(order) - len(trained)
    return {label: max(0, place - free) for place, label in enumerate(order)}


def _trains(plan: Plan, stage: str) -> bool:
    """Whether a generator's stage takes steps of training; otherwise the generator is fitted in one pass."""
    model = plan.built[stage].generator
    assert model is not None
    return model.takes_steps() and plan.stages[stage].config["steps"] > 0
