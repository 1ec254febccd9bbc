"""A run shows a small comparison of all regularizers while it makes the rest."""

import re

import pytest
from helpers.run import TINY, bench_inline

from latentbench.bench.cli.open_plan import open_plan
from latentbench.bench.cli.progress import Display
from latentbench.bench.engine.run import run
from latentbench.bench.engine.run_options import RunOptions
from latentbench.bench.engine.watcher import Watcher

MATRIX = TINY.replace("seeds: [0]", "seeds: [0, 1]").replace(
    "[reconstruction, generation, density, cost]", "[generation]"
)


class Enough(Exception):
    """Ends a run before it makes anything."""


class Seen(Watcher):
    """Keeps what a run is about to make."""

    def begin(self, ahead):
        self.ahead = ahead
        raise Enough


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a run prints, and its report at the moment when its first round is complete."""
    folder, before, texts = tmp_path_factory.mktemp("early"), Display.round, {}

    def round(display, so_far):
        for name in ("leaderboard.html", "leaderboard.md", "leaderboard.csv"):
            texts.setdefault(name, (folder / "results/tiny" / name).read_text())
        before(display, so_far)

    (folder / "matrix.yaml").write_text(MATRIX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "round", round)
        done = bench_inline("run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, texts, folder / "results/tiny"


def test_the_leaderboard_of_the_first_seed_is_shown_before_the_second_is_trained(shown):
    said, _, _ = shown
    table = said.index("\ncompared: none and kl with gaussian and lightningdit on vit, seed 0\n")
    started = {seed: said.index(f"start  tokenizer vit · none · seed {seed}") for seed in "01"}
    assert started["0"] < table < started["1"]
    lines = said[table : started["1"]].splitlines()
    assert (
        sum(line.startswith(("lightningdit ", "gaussian ")) for line in lines) == 6
    )  # lightningdit at two w
    assert (
        "4 of 8 cells are done. To come: gaussian and lightningdit for seed 1." in said[table : started["1"]]
    )


def test_the_time_to_go_is_told_from_the_first_stages(shown):
    said, _, _ = shown
    done = re.findall(r"^done .* \[\d+/\d+\](.*)$", said, re.M)
    assert all(re.fullmatch(", (less than a minute|about .*) to go|", end) for end in done)
    assert any(done) and not done[0]  # features don't tell how fast networks train


def test_the_report_can_be_read_meanwhile_and_says_that_it_is_partial(shown):
    _, texts, folder = shown
    sentence = "4 of 8 cells are done. To come: gaussian and lightningdit for seed 1."
    assert f"<strong>Partial.</strong> {sentence}" in texts["leaderboard.html"]
    assert f"**Partial.** {sentence}" in texts["leaderboard.md"]
    assert len(texts["leaderboard.csv"].splitlines()) == 1 + 7  # held-out images; lightningdit at two w
    for name in ("leaderboard.html", "leaderboard.md"):
        assert "Partial." not in (folder / name).read_text()


def test_the_first_comparison_waits_for_its_training_and_not_for_other_rounds(tmp_path):
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    opened = open_plan(tmp_path / "matrix.yaml", None, None, None, None, "cpu", None, None)
    options = RunOptions(tmp_path / "results", jobs=1, engine="inline")
    seen = Seen()
    with pytest.raises(Enough):
        run(opened, options, seen)
    kinds = {(opened.plan.stages[id].kind, opened.plan.stages[id].label) for id in seen.ahead.first}
    assert ("tokenizer", "vit · kl · seed 0") in kinds and ("tokenizer", "vit · kl · seed 1") not in kinds
    assert len(seen.ahead.rounds) == 2 and set(seen.ahead.first) < {one.id for one in seen.ahead.stages}
