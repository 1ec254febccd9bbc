"""The networks that taught a row: its training saw their features or their losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..metrics.names import weights
from .record import Record

# Older records, without "taught_by", name their regularizer alone. These parts learned from features of the
# teacher, which in the studies that were committed then was the only network of their metrics.
LEARNED = frozenset(
    "aae dmvae flow_prior mmd repa repa_e simflow_repa_e softvq_align vf".split()  # by their constructors
)


def networks(configs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{name: sha256 of the weights} of the networks in the configs of stages that a training depends on.

    These are feature extractors, frozen encoders and the networks of losses; several weights of one name are
    all listed.
    """
    found: dict[str, set[str]] = {}
    for config in configs:
        for role in ("extractor", "teacher"):
            if config.get(role, {}).get("fingerprint"):
                found.setdefault(config[role]["name"], set()).add(config[role]["fingerprint"])
        tokenizer = config.get("tokenizer", {})
        encoder = tokenizer.get("uses", {}).get("encoder")  # a feature extractor
        if encoder and tokenizer.get("fingerprint"):
            found.setdefault(encoder["name"], set()).add(tokenizer["fingerprint"])
        for name, loss in config.get("reconstruction", {}).items():
            for option in loss.values() if isinstance(loss, Mapping) else ():
                if isinstance(option, Mapping) and option.get("fingerprint"):
                    found.setdefault(name, set()).add(option["fingerprint"])
    return {name: sorted(found[name]) for name in sorted(found)}


def teachers(record: Record) -> frozenset[str]:
    """The sha256 of the weights of all networks that taught the record's row."""
    taught_by = record.provenance.get("taught_by")
    if taught_by is not None:
        return frozenset(digest for digests in taught_by.values() for digest in digests)
    label = record.cell["regularizer"].partition("[")[0]
    if record.provenance.get("uses", {}).get("regularizer", label) not in LEARNED:
        return frozenset()
    features = (entry["protocol"].get("features") for entry in record.metrics.values())
    known = {digest for one in features if isinstance(one, dict) for digest in weights(one)}
    return frozenset(known if len(known) == 1 else ())
