import pytest
from helpers.fake_subject import FakeSubject

from latentbench.bench.api import FeatureExtractor
from latentbench.bench.metrics.names import (
    ALEX,
    CLIP,
    INCEPTION,
    VGG,
    base_name,
    check_name,
    decoded_name,
    kind_of_metric,
    metric_name,
)
from latentbench.bench.records.files import read_records
from latentbench.bench.records.record import Record
from latentbench.bench.registry import create

OTHER = "ab" * 32
CELL = {"dataset": "digits", "tokenizer": "vit", "regularizer": "kl", "generator": "mar", "seed": "0"}


class Network(FeatureExtractor):
    def __init__(self, name, sha):
        self.name, self.sha = name, sha

    def protocol(self):
        return {"extractor": self.name, "weights_sha256": self.sha}


def record(name, protocol):
    entry = {"value": 1.0, "n": 10, "protocol": protocol, "scope": "generator"}
    return Record(CELL, "key", "done", None, {name: entry})


def test_published_names_belong_to_the_weights_that_define_them():
    inception, clip = Network("inception", INCEPTION), Network("clip", CLIP)
    pairs = {"gFD": "gFID", "rFD": "rFID", "sFD": "sFID", "KD": "KID", "rKD": "rKID", "IS": "IS"}
    assert {base: metric_name(base, inception) for base in pairs} == pairs
    assert metric_name("gFD", inception, 360) == "gFID@360"
    assert metric_name("CMMD", clip) == "CMMD" and metric_name("MIND", inception, 360) == "MIND@360"
    assert metric_name("CMMD", inception) == "CMMD[inception]" and metric_name("gFD", clip) == "gFD[clip]"


@pytest.mark.parametrize("base", ["gFD", "sFD", "KD", "IS", "CMMD", "MIND", "precision"])
@pytest.mark.parametrize("at", [None, 360])
def test_where_decoded_latents_stand_for_images_no_published_name_is_left(base, at):
    count = "" if at is None else f"@{at}"
    for network in (Network("inception", INCEPTION), Network("clip", CLIP), Network("effnet", OTHER)):
        name = decoded_name(metric_name(base, network, at), network.name)
        assert name == f"{base}_decoded{count}[{network.name}]"
        check_name(name, {"features": network.protocol()})
        assert base_name(name) == f"{base}_decoded" and kind_of_metric(name) == base


def test_other_metrics_and_other_weights_keep_the_extractor_in_brackets():
    assert metric_name("precision", Network("inception", INCEPTION)) == "precision[inception]"
    assert metric_name("rFD_noise_0.1", Network("inception", INCEPTION)) == "rFD_noise_0.1[inception]"
    for name in ("effnet_lite0", "inception", "inception:random", "inception:ab12cd34"):
        for base in ("gFD", "rFD", "sFD", "KD", "IS", "CMMD"):
            assert metric_name(base, Network(name, OTHER)) == f"{base}[{name}]"
            assert metric_name(base, Network(name, None), 360) == f"{base}@360[{name}]"


@pytest.mark.parametrize(
    "name",
    [
        *("gFID", "gFID@360", "rFID@1.5", "sFID", "KID", "rKID", "IS", "FID", "Fid_50k"),
        *(
            "cleanFID",
            "ImageNetFID",
            "tokenFID",
            "bestFID",
            "valFID",
            "minFID",
            "FIDx",
            "clean_fid",
            "fid50k",
        ),
        *("FrechetInceptionDistance", "kernel_inception_distance", "inception_score", "IS_mean", "IS10k"),
    ],
)
def test_nothing_of_inceptions_can_be_recorded_with_other_weights(name):
    for protocol in (
        {},
        {"features": {"weights_sha256": OTHER}},
        {"features": {"weights_sha256": None}},
        {"features": {"weights_sha256": CLIP}},
        {"features": {"weights_sha256": OTHER}, "reference": {"weights_sha256": INCEPTION}},
        {"features": {"weights_sha256": OTHER, "note": INCEPTION}},
    ):
        with pytest.raises(ValueError, match=name):
            record(name, protocol)
    assert record(name, {"features": {"weights_sha256": INCEPTION}}).metrics[name]["value"] == 1


def test_a_bracket_does_not_make_another_distance_fid():
    for name in ("gFID[effnet_lite0]", "rFID[inception:random]", "KID@360[pixels]"):
        with pytest.raises(ValueError, match="weights"):
            check_name(name, {"features": {"weights_sha256": OTHER}})
    for name in ("IS[effnet_lite0]", "CMMD[clip:random]", "LPIPS[alex:random]", "gFD[inception]"):
        check_name(name, {"features": {"weights_sha256": OTHER}})


def test_lpips_needs_both_its_heads_and_the_network_under_them():
    for heads, backbone in (VGG, ALEX):
        check_name("LPIPS", {"heads_weights_sha256": heads, "backbone_weights_sha256": backbone})
        check_name("LPIPS", {"weights_sha256": {"heads": heads, "backbone": backbone}})
        with pytest.raises(ValueError, match="LPIPS"):
            check_name("LPIPS", {"heads_weights_sha256": heads})
    with pytest.raises(ValueError, match="LPIPS"):
        check_name("LPIPS", {"weights_sha256": {"heads": VGG[0], "backbone": ALEX[1]}})


@pytest.mark.parametrize("name", ["LPIPS_vgg", "mean_lpips", "CMMD_mean", "IS_mean"])
def test_a_word_beside_it_does_not_free_a_published_name(name):
    for protocol in ({}, {"weights_sha256": OTHER}):
        with pytest.raises(ValueError, match=name):
            check_name(name, protocol)
    check_name("LPIPS_vgg", {"weights_sha256": {"heads": VGG[0], "backbone": VGG[1]}})
    check_name("CMMD_mean", {"weights_sha256": CLIP})


@pytest.mark.parametrize(
    "name",
    [
        *("precision[x]", "PSNR", "confidence", "fidelity", "gFD[x]", "distance", "kidney", "valid", "rigid"),
        *("what_is_left", "isotropy", "THIS", "ISO_x", "solidity"),
    ],
)
def test_names_that_promise_nothing_need_no_weights(name):
    check_name(name, {})


def test_a_record_that_was_renamed_by_hand_is_not_read(tmp_path):
    text = record("gFD[effnet_lite0]", {"features": {"weights_sha256": OTHER}}).to_json()
    (tmp_path / "a.json").write_text(text.replace("gFD[effnet_lite0]", "gFID"))
    with pytest.raises(ValueError, match="gFID"):
        read_records(tmp_path)


def test_an_extractor_that_only_calls_itself_inception_gets_no_fid():
    scores = create("evaluators", "generation").run(FakeSubject(extractor="inception"))
    assert "gFD[inception]" in scores and not any(name.startswith(("gFID", "KID")) for name in scores)
