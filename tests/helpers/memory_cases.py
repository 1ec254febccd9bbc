"""Matrices whose stages take tens to hundreds of MB: every part of the suite, and every kind of stage.

A case is {"name", "matrix": a YAML text, "kinds": of stages}; CASES has them by group. Cases of a group share
the stages that they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from latentbench.bench.references.text_tokens import weights_file

Case = dict[str, Any]

TRAINED = """\
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
POINTS = """\
name: memory
dataset: {use: moons, count: 200000}
budget: {tokenizer_steps: 2, prior_steps: 2, generator_steps: 2, batch: 4096}
features: coordinates
reference: {use: teacher}
probes: {every: 1}
normalise: none
tokenizers: {points: {count: 50000}}
regularizers: {flow_prior: {prior: {use: velocity_mlp, width: 256, depth: 4}}}
generators: {none: {}}
evaluators: [cost]
"""

COARSE = "{vit: {width: 64, depth: 2, heads: 4, patch: 4, channels: 8}}"  # for losses of pairs of tokens
REGULARIZERS = {
    "none": "none: {}",
    "kl": "kl: {}",
    "noised_kl": "noised_kl: {}",
    "fixed_variance": "fixed_variance: {}",
    "lzn": "lzn: {steps: 3}",
    "lzn, images": "lzn: {steps: 3, anchors: image, align: 1.0}",
    "mmd": "mmd: {tokens: 32}",
    "mmd, rbf": "mmd: {tokens: 64, target: gaussian, kernel: rbf}",
    "swae": "swae: {}",
    "swae, images": "swae: {samples: image, target: gaussian}",
    "sigreg": "sigreg: {}",
    "sigreg, positions": "sigreg: {per_position: true}",
    "vicreg": "vicreg: {}",
    "lcr": "lcr: {}",
    "auxiliary_decoders": "auxiliary_decoders: {}",
    "variance_expansion": "variance_expansion: {}",
    "rms": "rms: {}",
    "sphere": "sphere: {}",
    "eq": "eq: {on: kl}",
    "scale_eq": "scale_eq: {factors: [2]}",
    "denoising": "denoising: {}",
    "masked": "masked: {}",
    "nested": "nested: {}",
    "aae": "aae: {}",
    "flow_prior": "flow_prior: {}",
    "dmvae": "dmvae: {}",
    "repa": "repa: {}",
    "vf": "vf: {}",
    "softvq_align": "softvq_align: {mode: average}",
    "repa_e": "repa_e: {}",
    "simflow": "simflow: {}",
    "simflow_repa_e": "simflow_repa_e: {}",
}
TOKENIZERS = {
    "vit": "vit: {width: 128, depth: 2, heads: 4, patch: 4, channels: 8}",
    "conv": "conv: {}",
    "vavae": "vavae: {width: 32, mult: [1, 2, 4]}",
    "dino": "dino: {width: 48}",
    "ncsnpp": "ncsnpp: {}",
    "softvq": "softvq: {latents: 64}",
    "frozen_encoder": "frozen_encoder: {}",
}
GENERATORS = {
    "gaussian": "gaussian: {}",
    "lightningdit": "lightningdit: {width: 128, sampler: {steps: 4}, guidance: [2.0]}",
    "sit": "sit: {width: 128, sampler: {steps: 4}}",
    "ddt": "ddt: {width: 128, sampler: {steps: 4}}",
    "meanflow": "meanflow: {width: 128}",
    "mar": "mar: {sampler: {iterations: 4, steps: 4}}",
    "raster_ar": "raster_ar: {sampler: {steps: 4}}",
    "tarflow": "tarflow: {width: 128}",
    "velocity_mlp": "velocity_mlp: {width: 64, sampler: {steps: 4}}",
}
EXTRACTORS = {
    "effnet_lite0": "{use: effnet_lite0, resolution: 256}",
    "effnet_lite1": "{use: effnet_lite1, resolution: 256}",
    "effnet_lite2": "{use: effnet_lite2, resolution: 256}",
    "inception": "{use: inception, weights: random}",
    "clip": "{use: clip, model: ViT-B-32, weights: random}",
    "timm": "{use: timm, model: vit_small_patch16_224.dino, weights: random}",
}
REFERENCES = {
    "gaussian": "{use: gaussian, tokens: 256, channels: 64}",
    "mixture": "{use: mixture, tokens: 256, channels: 64}",
    "codebook": "{use: codebook, patch: 8}",
    "table": "{use: table, rows: 50000, channels: 512}",
    "teacher": "{use: teacher, features: pooled}",
    "subset": "{use: subset, classes: [0, 1, 2, 3, 4]}",
    "diffusion": "{use: diffusion}",
    "latents": "{use: latents, tokenizer: {use: vit, width: 32, depth: 1, heads: 2, patch: 2, channels: 64}}",
}
if weights_file() is not None:
    REFERENCES["text_tokens"] = "{use: text_tokens}"
NEED_FILES = {"text_tokens"}  # parts that are in the table only where their package is installed
EVALUATORS: dict[str, dict[str, str]] = {
    "reconstruction": {},
    "robustness": {"evaluators": "[{robustness: {noise: [0.1], distances: [0.1]}}]"},
    "latents": {},
    "edges": {},
    "equivariance": {},
    "encoder_equivariance": {},
    "velocity_variance": {},
    "spatial": {},
    "label_neighbours": {},
    "interpolation": {},
    "normality": {},
    "sampling_paths": {
        "generators": "{lightningdit: {sampler: {steps: 2}}}",
        "evaluators": "[frechet_ratio, {sampling_paths: {steps: 4}}]",
    },
    "prefixes": {},
    "density": {},
    "coverage": {"evaluators": "[{coverage: {points: 60}}]"},
    "linear_probe": {"evaluators": "[{linear_probe: {iterations: 3}}]"},
    "prior": {"regularizers": "{dmvae: {}}", "evaluators": "[{prior: {samples: 300}}]"},
    "cost": {"regularizers": "{flow_prior: {}}"},
    "throughput": {},
    "zones": {
        "regularizers": "{lzn: {steps: 2, anchors: image}}",
        "evaluators": "[{zones: {points: 3000, steps: 2, draws: 1}}]",
    },
    "classification": {"regularizers": "{lzn: {steps: 2, anchors: image, align: 1.0, align_steps: 5}}"},
    "classification_by_alpha": {
        "regularizers": "{lzn: {steps: 2, anchors: image, align: 1.0, align_steps: 5}}",
        "evaluators": "[{classification_by_alpha: {alphas: [1.0], batches: [150]}}]",
    },
    "inversion": {
        "dataset": "{use: shapes, size: 32, count: {train: 256, val: 128}}",
        "tokenizers": "{ncsnpp: {}}",
        "regularizers": "{none: {}}",
        "evaluators": "[{inversion: {images: 128, repeats: 1}}]",
    },
    "generation": {"generators": "{gaussian: {}}"},
    "frechet_ratio": {"generators": "{gaussian: {}}"},
    "mind": {"generators": "{gaussian: {}}"},
    "class_accuracy": {
        "generators": "{gaussian: {}}",
        "evaluators": "[{class_accuracy: {iterations: 3}}]",
    },
}


def case(name: str, kinds: list[str], base: str = TRAINED, **keys: str) -> Case:
    """A case whose matrix is `base` with other values of some keys, and further keys."""
    lines = []
    for line in base.splitlines():
        key, _, value = line.partition(": ")
        lines.append(f"{key}: {keys.pop(key, value)}")
    lines += [f"{key}: {value}" for key, value in keys.items()]
    return {"name": name, "matrix": "\n".join(lines), "kinds": kinds}


CASES: dict[str, list[Case]] = {
    "tokenizers": [
        *(
            case(f"tokenizer {name}", ["tokenizer", "latents"], tokenizers=f"{{{text}}}")
            for name, text in TOKENIZERS.items()
        ),
        case("tokenizer points", ["tokenizer", "latents"], POINTS),
    ],
    "regularizers": [
        *(
            case(f"regularizer {name}", ["tokenizer", "prior"], regularizers=f"{{{text}}}")
            for name, text in REGULARIZERS.items()
            if name != "lzn"
        ),
        case("regularizer lzn", ["tokenizer"], tokenizers=COARSE, regularizers="{lzn: {steps: 3}}"),
        case(
            "regularizer lzn_views, tokenizer resnet",
            ["tokenizer"],
            regularizers="{lzn_views: {}}",
            augment="{}",
            tokenizers="{resnet: {width: 32}}",
        ),
    ],
    "generators": [
        *(
            case(f"generator {name}", ["generator", "samples"], generators=f"{{{text}}}")
            for name, text in GENERATORS.items()
        ),
        case(
            "a sweep of guidance",
            ["guidance"],
            SCORED,
            evaluators="[generation]",
            generators="{lightningdit: {guidance: {sweep: [1.0, 2.0], samples: 500}, sampler: {steps: 2}}}",
        ),
    ],
    "latents": [
        case("latents", ["latents"]),
        case(
            "latents in minibatches",
            ["latents"],
            dataset="{use: shapes, size: 32, count: {train: 256, val: 128}}",
            tokenizers=COARSE,
            regularizers="{lzn: {steps: 3}}",
        ),
    ],
    "data": [
        *(
            case(
                f"features {name}",
                ["features"],
                features=text,
                dataset="{use: shapes, size: 32, count: {train: 96, val: 32}}",
            )
            for name, text in EXTRACTORS.items()
        ),
        case("features coordinates", ["features"], POINTS),
        case("features of more images", ["features"]),
        *(case(f"reference {name}", ["reference"], reference=text) for name, text in REFERENCES.items()),
    ],
    "scores": [
        *(
            case(f"evaluator {name}", ["scores"], SCORED, **({"evaluators": f"[{name}]"} | keys))
            for name, keys in EVALUATORS.items()
        ),
        case("evaluator likelihood", ["scores"], POINTS, evaluators="[likelihood]"),
    ],
}


def parts_used(cases: Iterable[Case], kind: str) -> set[str]:
    """The names of the parts of a kind that the matrices of cases ask for."""
    key = {"references": "reference"}.get(kind, kind)
    found: set[str] = set()
    for one in cases:
        value = yaml.safe_load(one["matrix"]).get(key, {})
        if isinstance(value, dict) and "use" in value:
            found.add(value["use"])
        elif isinstance(value, dict):
            found |= {options.get("use", name) for name, options in value.items()}
        else:
            found |= {
                name for part in ([value] if isinstance(value, str) else value) for name in _names(part)
            }
    return found


def _names(part: Any) -> list[str]:
    return [part] if isinstance(part, str) else list(part)
