"""Rows with autoencoders of diffusers: keys that follow the files, weights of any form, whole runs."""

import json
import shutil

import pytest
import torch
from helpers.diffusers_models import edit, model, saved
from helpers.matrices import UNTRAINED, planned
from helpers.run import bench_inline
from safetensors.torch import load_file, save_file

from latentbench.bench.api import ImageSpec, Noise
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.nn import released_weights
from latentbench.bench.nn.weight_files import BadWeights
from latentbench.bench.plan.make import NetworkNeeded, make_plan
from latentbench.bench.registry import create
from latentbench.bench.stages.table import STAGES
from latentbench.bench.store.stage import UNKNOWN
from latentbench.bench.tools.check import Verdict, targets
from latentbench.bench.training.context import Context

MATRIX = (
    UNTRAINED
    + """\
reconstruction: {l1: 1.0}
samples: 32
tokenizers:
  vae: {use: diffusers, OPTIONS}
regularizers: {none: {}, kl: {}}
generators: {gaussian: {}}
evaluators: [EVALUATORS]
"""
)
GREY = ImageSpec(1, 8, 8)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def matrix(options, evaluators="reconstruction"):
    return MATRIX.replace("OPTIONS", options).replace("EVALUATORS", evaluators)


def plan_of(folder, options, **how):
    return planned(folder, matrix(options), **how)


def stages_of(plan):
    return {stage.label: stage for stage in plan.stages.values() if stage.kind == "tokenizer"}


def keys(folder, options):
    return {stage.key for stage in plan_of(folder, options).stages.values()}


@pytest.fixture
def vae(tmp_path):
    saved(tmp_path / "vae")
    return tmp_path / "vae"


def test_a_moved_folder_has_the_same_keys(vae, tmp_path):
    before = keys(tmp_path, f"path: {vae}")
    copied = shutil.copytree(vae, tmp_path / "pipeline" / "first_stage")
    assert keys(tmp_path, f"path: {copied.parent}, subfolder: first_stage") == before
    assert keys(tmp_path, f"path: {copied}, revision: v1") == before  # which a folder doesn't have
    # Nor does a key depend on who saved the model, and from where.
    edit(copied, _diffusers_version="0.1", _name_or_path="somewhere/else")
    assert keys(tmp_path, f"path: {copied}") == before
    assert UNKNOWN not in before


def test_whatever_changes_numbers_changes_the_keys(vae, tmp_path):
    def tokenizers(options=""):
        return {s.key for s in stages_of(plan_of(tmp_path, f"path: {vae}{options}")).values()}

    seen = [tokenizers(), tokenizers(", patch: 2"), tokenizers(", weights: random")]
    edit(vae, act_fn="relu")
    seen.append(tokenizers())
    model(seed=1, name="AutoencoderKL").save_pretrained(vae)
    seen.append(tokenizers())
    assert all(len(found) == 2 for found in seen) and len(set().union(*seen)) == 10


def test_the_weights_of_the_row_replace_those_of_the_folder(vae, tmp_path):
    other = tmp_path / "other"
    saved(other, seed=1)
    own, given = keys(tmp_path, f"path: {vae}"), keys(tmp_path, f"path: {vae}, weights: {other / WEIGHTS}")
    assert own != given == keys(tmp_path, f"path: {other}")


def test_without_its_weights_a_plan_goes_on_and_a_run_stops(vae, tmp_path):
    (vae / WEIGHTS).unlink()
    stages = stages_of(plan_of(tmp_path, f"path: {vae}"))
    assert {stage.key for stage in stages.values()} == {UNKNOWN}
    message = rf"matrix.yaml:9:3: there is no file {vae}/{WEIGHTS}; `weights: PATH` names another"
    with pytest.raises(MatrixError, match=message):
        plan_of(tmp_path, f"path: {vae}", fetch=True)
    random = stages_of(plan_of(tmp_path, f"path: {vae}, weights: random", fetch=True))
    assert all(stage.known and "weights" not in stage.config for stage in random.values())


def test_unfit_rows_are_skipped_and_wrong_ones_problems_of_their_line(vae, tmp_path):
    saved(tmp_path / "points", "AutoencoderTiny")
    cells = plan_of(tmp_path, f"path: {tmp_path / 'points'}").cells
    skipped = [cell.skipped for cell in cells if cell.tokenizer == "vae"]
    assert skipped[0] is None and "AutoencoderTiny encodes an image as a point" in skipped[1]
    edit(vae, _class_name="ConsistencyDecoderVAE")
    for options, message in (
        (f"path: {vae}", "ConsistencyDecoderVAE cannot be a tokenizer here: its decoder draws"),
        ("path: nowhere", "there is no folder nowhere"),
        ("patch: 2", "the option 'path' is missing"),
        (f"path: {vae}, patch: 0", "patch must be an integer >= 1, not 0"),
    ):
        with pytest.raises(MatrixError, match=rf"matrix.yaml:9:\d+: {message}"):
            plan_of(tmp_path, options)


def test_a_repository_that_is_not_here_stops_plan_and_run_offline_with_exit_code_4(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "matrix.yaml").write_text(matrix("path: owner/name, subfolder: vae"))
    for command in (("plan",), ("run", "--offline")):
        done = bench_inline(*command, "-m", "matrix.yaml", cwd=tmp_path, home=tmp_path / "home")
        assert done.returncode == 4 and "offline, and owner/name/vae/config.json" in done.stderr + done.stdout
    # With its config in the cache a plan is made, and only a run asks for the weights.
    kept = tmp_path / "cache" / "models--owner--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    saved(kept / "snapshots" / ("0" * 40) / "vae")
    (kept / "snapshots" / ("0" * 40) / "vae" / WEIGHTS).rename(tmp_path / WEIGHTS)
    loaded = load_matrix(tmp_path / "matrix.yaml")
    assert {stage.key for stage in stages_of(make_plan(loaded)).values()} == {UNKNOWN}
    with pytest.raises(NetworkNeeded, match=f"no weights: offline, and owner/name/vae/{WEIGHTS}"):
        make_plan(loaded, fetch=True)
    (tmp_path / WEIGHTS).rename(kept / "snapshots" / ("0" * 40) / "vae" / WEIGHTS)
    saved(tmp_path / "folder")
    plan = make_plan(loaded, fetch=True)
    assert {stage.key for stage in plan.stages.values()} == keys(tmp_path, f"path: {tmp_path / 'folder'}")


def loaded(folder):
    """A tokenizer for grey digits with the weights of its folder."""
    tokenizer = create("tokenizers", "diffusers", image=GREY, expansion=1, path=str(folder))
    tokenizer.load_state_dict(released_weights.state(tokenizer, tokenizer.own_weights()))
    return tokenizer.eval()


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("form", ["sharded", "pickled", "prefixed", "older"])
def test_weights_are_read_in_every_form_that_diffusers_reads(form, vae, tmp_path):
    from diffusers import AutoModel

    plain, tensors = loaded(vae), load_file(vae / WEIGHTS)
    (vae / WEIGHTS).unlink()
    if form == "sharded":
        AutoModel.from_config(json.loads((vae / "config.json").read_text())).save_pretrained(
            vae, max_shard_size="10kB", state_dict=tensors
        )
        index = json.loads((vae / f"{WEIGHTS}.index.json").read_text())["weight_map"]
        assert len(set(index.values())) > 1
        for shard in set(index.values()):
            save_file({name: tensors[name] for name in index if index[name] == shard}, vae / shard)
    elif form == "pickled":
        torch.save(tensors, vae / "diffusion_pytorch_model.bin")
    elif form == "prefixed":
        save_file({f"vae.{name}": tensor for name, tensor in tensors.items()}, vae / WEIGHTS)
    else:  # as Stable Diffusion's, which diffusers renames as it reads them
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        older = {}
        for name, tensor in tensors.items():
            for new, old in names.items():
                name = name.replace(f".{new}.", f".{old}.")
            older[name] = tensor
        assert sum(name not in tensors for name in older) == 16
        save_file(older, vae / WEIGHTS)
    assert same(loaded(vae), plain)
    if form != "prefixed":
        theirs = AutoModel.from_pretrained(str(vae), use_safetensors=form != "pickled").state_dict()
        assert all(torch.equal(theirs[name], tensors[name]) for name in tensors)


def test_a_number_without_dimensions_is_read(tmp_path):
    made = model("AutoencoderKLFlux2")
    made.bn.num_batches_tracked += 3
    made.bn.running_mean += 0.5
    made.save_pretrained(tmp_path)
    state = loaded(tmp_path).state_dict()
    assert state["encoder.model.bn.num_batches_tracked"] == 3
    assert torch.equal(state["encoder.model.bn.running_mean"], made.bn.running_mean)


def test_weights_that_run_code_or_lack_tensors_are_refused(vae, tmp_path):
    tensors = load_file(vae / WEIGHTS)
    tensors.pop("decoder.conv_in.weight")
    save_file({**tensors, "more": torch.ones(1)}, vae / WEIGHTS)
    message = "lacks decoder.conv_in.weight and has more, which the tokenizer does not"
    with pytest.raises(MatrixError, match=message):
        plan_of(tmp_path, f"path: {vae}")
    (vae / WEIGHTS).unlink()
    torch.save({"a": print}, vae / "diffusion_pytorch_model.bin")
    with pytest.raises(BadWeights, match="needs code to be read .*print"):
        loaded(vae)


def test_without_updates_it_is_scored_as_it_was_saved(vae, tmp_path):
    stages = stages_of(plan_of(tmp_path, f"path: {vae}"))
    for stage in stages.values():
        result = STAGES["tokenizer"](stage.config, {}, Context(tmp_path))
        prefix = "tokenizer/"
        kept = {name.removeprefix(prefix): t for name, t in result.tensors.items() if name.startswith(prefix)}
        wanted = loaded(vae).state_dict()
        assert kept.keys() == wanted.keys() and all(torch.equal(kept[name], wanted[name]) for name in kept)


def cached(text):
    """(cells, stages, cached stages) that a plan says."""
    (line,) = [line for line in text.splitlines() if line.startswith("tiny: ")]
    return [int(word) for word in line.replace(",", "").split() if word.isdigit()]


def test_digits_are_run_as_it_is_and_trained_and_after_a_move_only_what_is_new(vae, tmp_path):
    def bench(command):
        done = bench_inline(command, "-m", "matrix.yaml", cwd=tmp_path, home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
        return done

    def write(path):
        more = f"  more: {{use: diffusers, path: {path}, budget: {{tokenizer_steps: 3}}}}\n"
        text = matrix(f"path: {path}", "reconstruction, generation")
        text = text.replace("regularizers:", more + "regularizers:")
        (tmp_path / "matrix.yaml").write_text(text)
        return text

    write("vae")
    assert "not expected" not in bench("run").stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "results/tiny/records").glob("*.json")]
    assert len(records) == 5 and not [record["reason"] for record in records if record.get("reason")]
    assert all(record["metrics"] for record in records)
    cells, stages, done = cached(bench("plan").stdout)
    assert cells == 4 and done == stages
    vae.rename(tmp_path / "moved")
    text = write("moved")
    assert cached(bench("plan").stdout) == [cells, stages, stages]
    more = "{gaussian: {}, sit: {width: 16, depth: 1, heads: 2, sampler: {steps: 2}}}"
    (tmp_path / "matrix.yaml").write_text(text.replace("{gaussian: {}}", more))
    bench("run")  # decodes by artifacts that were made when the folder was elsewhere
    edit(tmp_path / "moved", act_fn="relu")
    cells, stages, done = cached(bench("plan").stdout)
    assert cells == 8 and done == 4  # features, the reference and the scores of held-out images


def test_it_keeps_the_contract_of_tokenizers(vae):
    (target,) = targets("tokenizers/diffusers", {"path": str(vae), "patch": 2})
    verdict = Verdict(target)
    assert not [promise.text for promise in verdict.lines() if promise.ok is False]
    assert "gFD" in verdict.rows


def test_a_trained_row_draws_the_posterior_that_training_left(vae):
    wide = create("tokenizers", "diffusers", image=GREY, expansion=2, path=str(vae))
    kl = create("regularizers", "kl", spec=wide.spec)
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    optimizer = torch.optim.Adam(wide.parameters(), 1e-2)
    losses = []
    for step in range(8):
        z = kl.latent(wide.encode(images), Noise(step))
        loss = (wide.decode(z) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
