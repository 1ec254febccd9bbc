"""Memory of every kind of stage and part: what a plan says against what is measured, in MB.

pytest tests/benchmarks/test_memory.py -m nightly -n 0 -s

prints the table. Sizes are such that the tensors that matter take tens to hundreds of MB.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

OFF = 1.5  # times, in either direction
HELPER = Path(__file__).parents[1] / "helpers" / "measured_memory.py"

COMMON = """\
name: memory
dataset: {use: shapes, size: 32, count: {train: 1024, val: 256}}
budget: {tokenizer_steps: 2, prior_steps: 2, generator_steps: 2, batch: 64}
features: {use: effnet_lite0, resolution: 256}
reconstruction: {l1: 1.0}
samples: 256
tokenizers: {vit: {width: 64, depth: 2, heads: 4, patch: 2, channels: 8}}
regularizers: {none: {}}
generators: {none: {}}
evaluators: [cost]
"""
METHODS = {
    "none": "none: {}",
    "kl": "kl: {}",
    "noised_kl": "noised_kl: {}",
    "fixed_variance": "fixed_variance: {}",
    "lzn": "lzn: {steps: 3}",
    "lzn, images": "lzn: {steps: 3, anchors: image, align: 1.0}",
    "mmd": "mmd: {tokens: 32}",
    "mmd, rbf": "mmd: {tokens: 64, target: gaussian, kernel: rbf}",
    "aae": "aae: {}",
    "flow_prior": "flow_prior: {}",
    "dmvae": "dmvae: {}",
    "repa": "repa: {}",
    "vf": "vf: {}",
    "softvq_align": "softvq_align: {}",
    "repa_e": "repa_e: {}",
    "simflow": "simflow: {}",
    "simflow_repa_e": "simflow_repa_e: {}",
}
TOKENIZERS = {
    "conv": "conv: {}",
    "softvq": "softvq: {latents: 64}",
    "resnet": "resnet: {width: 32}",
}
GENERATORS = {
    "gaussian": "gaussian: {}",
    "lightningdit": "lightningdit: {width: 128, sampler: {steps: 4}, guidance: [2.0]}",
    "sit": "sit: {width: 128, sampler: {steps: 4}}",
    "mar": "mar: {sampler: {iterations: 4, steps: 4}}",
    "tarflow": "tarflow: {width: 128}",
    "velocity_mlp": "velocity_mlp: {sampler: {steps: 4}}",
}
REFERENCES = {
    "gaussian": "{use: gaussian, tokens: 256, channels: 64}",
    "mixture": "{use: mixture, tokens: 256, channels: 64}",
    "codebook": "{use: codebook, patch: 8}",
    "table": "{use: table, rows: 50000, channels: 512}",
    "subset": "{use: subset, classes: [0, 1, 2, 3, 4]}",
    "diffusion": "{use: diffusion}",
}
SCORED = """\
name: memory
dataset: {use: shapes, size: 32, count: {train: 6000, val: 1500}}
budget: {tokenizer_steps: 2, prior_steps: 2, generator_steps: 2, batch: 64}
features: {use: effnet_lite0, resolution: 64}
samples: 2000
tokenizers: {vit: {width: 32, depth: 1, heads: 2, patch: 4, channels: 16}}
regularizers: {kl: {}}
generators: {none: {}}
evaluators: [cost]
"""
EVALUATORS = {
    "reconstruction": {},
    "robustness": {"evaluators": "[{robustness: {noise: [0.1], distances: [0.1]}}]"},
    "latents": {},
    "density": {},
    "coverage": {"evaluators": "[{coverage: {points: 300}}]"},
    "linear_probe": {"evaluators": "[{linear_probe: {iterations: 3}}]"},
    "prior": {"regularizers": "{dmvae: {}}"},
    "cost": {"regularizers": "{flow_prior: {}}"},
    "zones": {
        "regularizers": "{lzn: {steps: 2}}",
        "evaluators": "[{zones: {points: 3000, steps: 2, draws: 1}}]",
    },
    "classification_by_alpha": {
        "regularizers": "{lzn: {steps: 2, align: 1.0, align_steps: 5}}",
        "evaluators": "[{classification_by_alpha: {alphas: [1.0], batches: [150]}}]",
    },
    "generation": {"generators": "{gaussian: {}}"},
    "class_accuracy": {
        "generators": "{gaussian: {}}",
        "evaluators": "[{class_accuracy: {iterations: 3}}]",
    },
}


def case(name, kinds, base=COMMON, **keys):
    lines = [
        f"{line.split(':')[0]}: {keys.pop(line.split(':')[0], line.partition(': ')[2])}"
        for line in base.splitlines()
    ]
    return {
        "name": name,
        "matrix": "\n".join([*lines, *(f"{k}: {v}" for k, v in keys.items())]),
        "kinds": kinds,
    }


CASES = {
    "tokenizers": [
        *(
            case(f"regularizer {name}", ["tokenizer", "prior"], regularizers=f"{{{text}}}")
            for name, text in METHODS.items()
            if name != "softvq_align"
        ),
        case(
            "regularizer lzn_views",
            ["tokenizer"],
            regularizers="{lzn_views: {}}",
            augment="{}",
            tokenizers="{resnet: {width: 32}}",
        ),
        *(
            case(f"tokenizer {name}", ["tokenizer", "latents"], tokenizers=f"{{{text}}}")
            for name, text in TOKENIZERS.items()
            if name != "resnet"
        ),
    ],
    "generators": [
        case(f"generator {name}", ["latents", "generator", "samples"], generators=f"{{{text}}}")
        for name, text in GENERATORS.items()
    ],
    "latents": [case("latents in minibatches", ["latents"], regularizers="{lzn: {steps: 3}}")],
    "data": [
        case("features", ["features"]),
        *(case(f"reference {name}", ["reference"], reference=text) for name, text in REFERENCES.items()),
    ],
    "scores": [
        case(f"evaluator {name}", ["scores"], SCORED, **({"evaluators": f"[{name}]"} | keys))
        for name, keys in EVALUATORS.items()
    ],
}


def measured(cases, folder):
    done = subprocess.run(
        [sys.executable, str(HELPER), str(folder)], input=json.dumps(cases), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def line(row):
    of, sizes = f"{row['case']}: {row['kind']} {row['label']}", (row["planned"], row["measured"])
    planned, found = (size / 1e6 for size in sizes)
    return f"{of[:90]:90} {planned:8.0f} : {found:6.0f} {planned / found:6.2f}"


@pytest.mark.nightly
@pytest.mark.parametrize("group", CASES)
def test_planned_memory_is_near_what_is_measured(group, tmp_path):
    rows, errors = measured(CASES[group], tmp_path)
    print(*map(line, rows), sep="\n")
    assert all(row["made"] for row in rows), errors
    off = [line(row) for row in rows if not 1 / OFF <= row["planned"] / row["measured"] <= OFF]
    assert not off, "\n".join(off)
