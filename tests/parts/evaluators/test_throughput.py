import pytest
import torch
from helpers.fake_subject import FakeSubject
from helpers.run import TINY, ran
from torch import nn

from latentbench.bench.api import Generator, ImageSpec, LatentSpec, Tokenizer
from latentbench.bench.leaderboard.cost_table import cost_about, cost_table
from latentbench.bench.leaderboard.rows import rows_of
from latentbench.bench.records.files import read_records
from latentbench.bench.registry import create
from latentbench.evaluators.throughput import durations, rates


class Clock:
    """Seconds that pass only while `work` runs, so many at each call."""

    def __init__(self, *seconds):
        self.now, self.seconds, self.calls = 0.0, list(seconds), 0

    def __call__(self):
        return self.now

    def work(self):
        self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


class Linear(Tokenizer):
    """64 pixels to 4 tokens of 3 channels and back; counts its calls."""

    def __init__(self):
        super().__init__(ImageSpec(1, 8, 8), expansion=1)
        self.spec, self.calls = LatentSpec(4, 3), []
        self.encoder, self.decoder = nn.Linear(64, 12), nn.Linear(12, 64)

    def encode(self, images):
        self.calls.append(("encode", len(images), torch.is_grad_enabled()))
        return self.encoder(images.flatten(1)).unflatten(1, (4, 3))

    def decode(self, z):
        self.calls.append(("decode", len(z), torch.is_grad_enabled()))
        return self.decoder(z.flatten(1)).reshape(-1, 1, 8, 8)


class Sampler(Generator):
    def __init__(self):
        super().__init__(LatentSpec(4, 3), classes=10)
        self.seen = []

    def sample(self, labels, guidance, noise, *, steps=4):
        self.seen.append((labels.tolist(), guidance, steps))
        return noise.normal(torch.empty(len(labels), 4, 3))


def run(subject, **options):
    return create("evaluators", "throughput", **options).run(subject)


def test_a_first_run_is_not_counted_and_quick_work_is_timed_five_times():
    clock = Clock(9.0, 0.1, 0.2, 0.1, 0.3, 0.1)
    assert durations(clock.work, clock) == pytest.approx([0.1, 0.2, 0.1, 0.3, 0.1]) and clock.calls == 6


def test_slow_work_is_timed_three_times():
    clock = Clock(2.0)
    assert durations(clock.work, clock) == [2.0] * 3


def test_a_rate_is_of_the_median_and_its_range_over_repeats():
    assert rates("encode", 12, [0.5, 1.0, 3.0]) == {
        "encode_images_per_second": 12.0,
        "encode_images_per_second_range": pytest.approx(24.0 - 4.0),
        "encode_repeats": 3,
    }


def test_a_tokenizer_encodes_and_decodes_batches_without_gradients():
    tokenizer = Linear()
    found = run(FakeSubject(scope="tokenizer", tokenizer=tokenizer, val=20), batch=32)
    assert found["latents_per_image"] == 4 and found["values_per_image"] == 12
    assert found["throughput_batch"] == 32 and 3 <= found["decode_repeats"] <= 5
    assert found["encode_images_per_second"] > 0 and found["decode_images_per_second"] > 0
    assert {call[1:] for call in tokenizer.calls} == {(32, False)}  # more than there are held-out images
    assert not any(name.startswith("sampling") for name in found)


def test_samples_are_drawn_as_the_rows_are():
    generator = Sampler()
    subject = FakeSubject(generator=generator, sampler={"steps": 7}, train=60)
    subject.guidance, subject.sample_labels = 1.5, torch.arange(60) % 10
    found = run(subject, batch=12)
    assert set(found) == {
        f"sampling_{x}" for x in ("images_per_second", "images_per_second_range", "repeats")
    }
    assert set(map(str, generator.seen)) == {str((list(range(10)) + [0, 1], 1.5, 7))}


def test_held_out_images_have_no_throughput():
    assert run(FakeSubject(real=True)) == {}


MATRIX = TINY.replace(
    "[reconstruction, generation, density, cost]", "[frechet_ratio, mind, throughput, edges]"
)
GUIDED = """\
  lightningdit: {width: 32, depth: 1, heads: 2, sampler: {steps: 4}}
  guided: {use: lightningdit, width: 32, depth: 1, heads: 2, guidance: 1.5, sampler: {steps: 4},
    autoguidance: {snapshot: 6}}
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The records of a run of the command line, whose last row is guided by its earlier weights."""
    start, _, end = MATRIX.partition("  lightningdit")
    text = start.replace("  kl: {weight: 1.0e-3}\n", "") + GUIDED + end.partition("\n")[2]
    return read_records(ran(tmp_path_factory.mktemp("run"), text) / "results" / "tiny" / "records")


def test_rates_of_a_run_are_costs_and_no_metrics(records):
    for record in (record for record in records if not record.real):
        assert not any("per_second" in name or "per_image" in name for name in record.metrics)
        assert record.cost["encode_images_per_second"] > 0 and record.cost["latents_per_image"] == 4
        w = 1.5 if record.cell["generator"] == "guided" else 1
        assert record.cost[f"sampling_images_per_second@{w:g}"] > 0
    table = cost_table(rows_of(records))
    assert {"latents/image", "encoded images/s", "sampled images/s"} <= set(table.headers)
    assert "Images per second" in cost_about(table.headers) and "Images per" not in cost_about(["peak MiB"])


def test_the_other_new_metrics_of_a_run_have_protocols_and_the_real_row_one(records):
    for record in records:
        found = {name.partition("[")[0]: entry for name, entry in record.metrics.items()}
        assert all(len(entry["replicates"]) == 100 and entry["n"] > 0 for entry in found.values())
        if record.real:
            assert found["FDr"]["value"] == pytest.approx(1) and "MIND@64" in found
        else:
            assert "PSNR_edges" in found


def test_records_of_a_run_say_how_samples_are_guided_where_that_is_unusual(records):
    guided = {r.cell["generator"]: r.provenance.get("guided") for r in records}
    expected = {"by": "guided", "snapshot": 6, "like": "lightningdit"}
    assert guided == {"real": None, "gaussian": None, "lightningdit": None, "guided": expected}
