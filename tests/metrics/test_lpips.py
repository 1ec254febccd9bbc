import hashlib
import re

import pytest
import torch
from helpers.fake_subject import FakeSubject
from torch.nn.functional import relu
from torchvision.models import alexnet

from latentbench.bench.leaderboard.columns import short_names
from latentbench.bench.leaderboard.rows import Column
from latentbench.bench.metrics import lpips
from latentbench.bench.metrics.lpips import Lpips
from latentbench.bench.metrics.names import ALEX, VGG, check_name
from latentbench.bench.registry import create


def levels(n=2, channels=3, side=64, seed=0):
    drawn = torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.uint8)


@pytest.fixture(scope="module")
def stored():
    """What is in a file of torchvision's: an AlexNet, less what LPIPS leaves out."""
    torch.manual_seed(1)
    network = alexnet(weights=None).features.eval()
    return network, {f"features.{name}": tensor for name, tensor in network.state_dict().items()}


@pytest.fixture
def backbone(stored, tmp_path, monkeypatch):
    """The network and its file, which is taken for the known one."""
    network, tensors = stored
    file = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir()
    torch.save(tensors, file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(lpips.BACKBONES, "alex", (file.name, found))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return network, file


def formula(network, a, b):
    """Zhang et al., 2018, eq. 1: differences of unit features after each relu, weighted by the heads."""
    heads = torch.load(lpips.heads_file("alex"), weights_only=True, map_location="cpu")
    shift, scale = (
        torch.tensor(three)[:, None, None] for three in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    )
    x, y = ((one.float() / 127.5 - 1 - shift) / scale for one in (a, b))
    total, layer = torch.zeros(len(a)), 0
    for module in network:
        x, y = module(x), module(y)
        if isinstance(module, torch.nn.ReLU):
            u, v = (relu(one) / one.norm(dim=1, keepdim=True).clamp(min=1e-10) for one in (x, y))
            total += ((u - v) ** 2 * heads[f"lin{layer}.model.1.weight"]).sum(1).mean((1, 2))
            layer += 1
    assert layer == 5
    return total.double()


@torch.no_grad()
def test_it_is_the_papers_formula_on_the_weights_of_the_file(backbone):
    network, file = backbone
    a, b = levels(), levels(seed=1)
    expected = formula(network, a, b)
    assert expected.min() > 0
    for weights in (str(file), None):  # by path, and found in the cache
        assert Lpips("alex", weights).here
        torch.testing.assert_close(Lpips("alex", weights)(a, b), expected, rtol=1e-4, atol=1e-6)


def test_the_packages_heads_are_the_published_ones():
    for net, (heads, _) in (("alex", ALEX), ("vgg", VGG)):
        assert hashlib.sha256(lpips.heads_file(net).read_bytes()).hexdigest() == heads


def test_equal_images_are_at_zero_and_a_batch_changes_nothing():
    distance, a, b = Lpips("alex", "random"), levels(40), levels(40, seed=1)
    found = distance(a, b)
    assert distance(a, a).abs().max() == 0 and found.min() > 0
    torch.testing.assert_close(distance(a[33:35], b[33:35]), found[33:35])


def test_random_weights_are_always_the_same_and_leave_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = Lpips("alex", "random")(levels(), levels(seed=1))
    assert torch.rand(1) == expected
    assert torch.equal(Lpips("alex", "random")(levels(), levels(seed=1)), one)


def test_grey_and_tiny_images_are_repeated_and_enlarged():
    tiny, grey = levels(channels=1, side=8), levels(channels=1)
    distance = Lpips("alex", "random")
    assert distance(tiny, levels(channels=1, side=8, seed=1)).isfinite().all()
    other = levels(channels=1, seed=1)
    expected = distance(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
    assert torch.equal(distance(grey, other), expected)


def test_vgg_is_there_too():
    assert Lpips("vgg", "random")(levels(1, side=64), levels(1, seed=1)).shape == (1,)


def test_another_file_is_refused_with_both_hashes(backbone):
    _, file = backbone
    torch.save({"something": torch.ones(1)}, file)
    found, known = hashlib.sha256(file.read_bytes()).hexdigest(), lpips.BACKBONES["alex"][1]
    with pytest.raises(ValueError, match=f"(?s){found}.*{known}"):
        create("evaluators", "reconstruction", lpips_weights=str(file))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere/alex.pth"):
        Lpips("alex", "nowhere/alex.pth")(levels(), levels())


def test_offline_the_missing_file_and_its_address_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af.pth.*https://"):
        Lpips("vgg")(levels(), levels())


def test_only_the_known_weights_give_the_published_name(backbone):
    published, other = Lpips("alex"), Lpips("alex", "random")
    assert (published.name, other.name) == ("LPIPS", "LPIPS[alex:random]")
    check_name(other.name, other.protocol())
    with pytest.raises(ValueError, match="not its weights"):
        check_name("LPIPS", other.protocol())
    with pytest.raises(ValueError, match="not its weights"):
        check_name("LPIPS", published.protocol())  # of the fixture's file


def test_no_table_leaves_a_bracket_out_that_keeps_a_name_from_being_the_published_one():
    columns = [Column(name, "abc123", "tokenizer", {}) for name in ("LPIPS[alex:random]", "PSNR")]
    assert short_names(columns) == ["LPIPS[alex:random]", "PSNR"]
    columns = [Column(f"{name}[net]", "abc123", "generator", {}) for name in ("gFD", "IS", "KD")]
    assert short_names(columns) == ["gFD", "IS[net]", "KD"]


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_protocol_of_the_known_weights_carries_the_name(net):
    check_name("LPIPS", Lpips(net).protocol())


def test_an_evaluator_has_it_if_the_weights_are_here_or_random_or_asked_for(tmp_path, backbone, monkeypatch):
    def make(**options):
        return create("evaluators", "reconstruction", **options)

    assert make().lpips == Lpips("alex") and make().fingerprint()
    assert make(lpips="none").lpips is None and make(lpips="none").fingerprint() == ""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "empty"))
    assert make().lpips is None and make().fingerprint() == ""
    assert make(lpips="vgg").lpips == Lpips("vgg")
    assert make(lpips_weights="random").lpips == Lpips("alex", "random")


def test_reconstructions_are_scored_with_random_weights_from_end_to_end():
    evaluator = create("evaluators", "reconstruction", lpips_weights="random")
    subject = FakeSubject(scope="tokenizer")
    scores = evaluator.run(subject)
    name = "LPIPS[alex:random]"
    assert "LPIPS" not in scores and scores[name] > 0
    assert len(scores[name].replicates) == 100 and len(scores[name].classes) == 10
    protocol = evaluator.protocol(name, subject)
    check_name(name, protocol)
    assert protocol["n"] == 20 and re.fullmatch("[0-9a-f]{64}", protocol["heads_weights_sha256"])
    same = FakeSubject(scope="tokenizer", reconstructions=subject.sets["val"])
    assert evaluator.run(same)[name] == 0
