"""Weights from other people's files: any nesting, any prefix, the running average first, nothing broken, nothing silent."""

import pytest
import torch

from rtseg.core.errors import ArtifactError
from rtseg.core.states import find_state, load_checkpoint
from rtseg.models import create_model
from rtseg.models.checkpoints import fit_checkpoint
from rtseg.models.starting import origin_of, start_from

NAME = "enet"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    return create_model(NAME, 4).state_dict()


def wrap(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state):
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


NESTINGS = {
    "bare": lambda s: s,
    "lightning": lambda s: {"epoch": 3, "state_dict": wrap(s, "model."), "optimizer_states": [{"state": {0: s}}]},
    "mmseg": lambda s: {"meta": {"config": "x"}, "state_dict": wrap(s, "backbone.")},
    "timm": lambda s: {"state_dict": other(s), "state_dict_ema": wrap(s, "module."), "metric": 0.5},
    "ema_net": lambda s: {"net": other(s), "ema_net": {"n_averaged": torch.tensor(9), **wrap(s, "module.")}},
    "super-gradients": lambda s: {"net": wrap(other(s), "module."), "ema_net": wrap(s, "module."), "acc": 0.1},
    "model_ema": lambda s: {"model": other(s), "model_ema": wrap(s, "module."), "optimizer": {"exp_avg": s}},
    "compiled": lambda s: {"model_state_dict": wrap(s, "_orig_mod.module."), "scheduler": {"last_epoch": 3}},
    "deep": lambda s: {"checkpoint": {"trainer": {"net": wrap(s, "model.backbone.")}}},
    "one dictionary of two copies": lambda s: (
        wrap(other(s), "model.") | wrap(s, "ema_model.module.") | {"loss.w": torch.ones(4)}
    ),
    "swa": lambda s: {"weights": other(s), "swa": {"n_averaged": torch.tensor(2), **wrap(s, "module.")}},
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_the_state_is_found_below_any_wrapper(nesting, state, tmp_path):
    torch.save(NESTINGS[nesting](state), tmp_path / "net.pth")
    network = create_model(NAME, 4)
    assert fit_checkpoint(NAME, find_state(tmp_path / "net.pth").state, network) == "rtseg"
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items() if v.is_floating_point())
    start = start_from(create_model(NAME, 7), find_state(tmp_path / "net.pth").state, name=NAME)
    assert start.fresh and all("head" in part or "classif" in part or "full" in part for part in start.fresh)


def test_what_was_taken_is_said(state, tmp_path):
    torch.save(NESTINGS["model_ema"](state), tmp_path / "net.pth")
    assert str(find_state(tmp_path / "net.pth")) == ("the running average 'model_ema' of net.pth (model is there, too)")
    start = start_from(create_model(NAME, 4), wrap(state, "net.") | {"criterion.weight": torch.ones(4)})
    assert start.names == "prefix 'net.' taken off; left out: criterion"


def test_an_average_that_lacks_tensors_is_not_taken(state, tmp_path):
    half = {key: value for key, value in state.items() if "running" not in key}
    torch.save({"model": state, "ema": half}, tmp_path / "net.pth")
    assert find_state(tmp_path / "net.pth").place == "model"


@pytest.mark.parametrize("content", [{"a": 1}, {"state": {0: {"exp_avg": torch.ones(2)}}}, [torch.ones(2)]])
def test_a_file_without_a_state_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ArtifactError, match="no state dictionary"):
        find_state(tmp_path / "net.pth")


def test_two_networks_without_names_are_refused(state, tmp_path):
    torch.save({"teacher_x": state, "student_x": state}, tmp_path / "net.pth")
    with pytest.raises(ArtifactError, match="teacher_x, student_x"):
        find_state(tmp_path / "net.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_are_refused(value, state, tmp_path):
    key = next(k for k, v in state.items() if v.is_floating_point() and v.numel() > 5)
    broken = {**state, key: state[key].clone()}
    broken[key].view(-1)[3] = value
    torch.save({"state_dict": broken}, tmp_path / "net.pth")
    with pytest.raises(ArtifactError, match=f"NaN or infinity .*{key}: 1 of"):
        load_checkpoint(tmp_path / "net.pth")


def test_a_module_called_module_keeps_its_name():
    """A prefix is what stands before the wanted names, not a word on a list."""

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Conv2d(3, 4, 1)

    from rtseg.models.checkpoints import below, common_prefix

    own = Own().state_dict()
    assert below(own, common_prefix(own, own))[0].keys() == own.keys()
    assert below(wrap(own, "module."), common_prefix(wrap(own, "module."), own))[0].keys() == own.keys()


@pytest.mark.parametrize("name, encoder", [("stdcseg1", "stdc1"), ("stdcseg2", "stdc2")])
def test_stdc_authors_imagenet_weights_start_their_own_networks(name, encoder, tmp_path):
    from rtseg.models.stdcnet import stdc_names
    from rtseg.models.stdcseg import STDCSegEncoder

    theirs = STDCSegEncoder(encoder, 3)
    names = stdc_names(theirs)
    assert "features.2.avd_layer.0.weight" in names.values() and "features.2.avd_layer.1.running_var" in names.values()
    file = {t: theirs.state_dict()[k] for k, t in names.items()} | {"linear.weight": torch.zeros(3)}
    torch.save({"state_dict": file}, tmp_path / "STDCNet.tar")
    network = create_model(name, 4, pretrained=str(tmp_path / "STDCNet.tar"))
    assert torch.equal(network.encoder.stage5[0].halve.conv.weight, theirs.stage5[0].halve.conv.weight)
    assert origin_of(network).startswith("encoder from STDCNet.tar ")
    with pytest.raises(ArtifactError, match="belongs to stdcseg1 and stdcseg2"):
        create_model("stdc", 4, encoder=encoder, pretrained=str(tmp_path / "STDCNet.tar"))


def test_an_encoder_says_what_it_was_trained_on(tmp_path):
    import timm

    torch.save({"state_dict": wrap(timm.create_model("resnet18").state_dict(), "module.")}, tmp_path / "r18.pth")
    network = create_model("bisenetv1", 4, pretrained=str(tmp_path / "r18.pth"))
    assert origin_of(network).startswith("encoder from r18.pth ")
    assert origin_of(create_model("enet", 4)) == "none"


def test_dfanet_starts_gently():
    """Its first gradient had a norm of 2e8; three steps of the default learning rate lower the loss."""
    torch.manual_seed(0)
    network = create_model("dfanet", 4).train()
    images = torch.randn(4, 3, 64, 96)
    masks = (images.mean(1) > 0).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images).logits, masks)
        loss.backward()
        if not losses:
            norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
            assert norm < 100
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
