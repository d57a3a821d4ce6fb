"""The networks against facts that were measured on the reference: parameters, operations, outputs (see ../shared/zoo/README.md)."""

import copy
import json
import math
import re
import runpy

import numpy as np
import pytest
import torch

from rtseg.core.errors import ArtifactError
from rtseg.layers.merging import can_merge, merged
from rtseg.models import convert_checkpoint, count_macs, count_parameters, create_model, list_models, model_info
from rtseg.models.checkpoints import list_sources
from rtseg.models.contract import SegNetwork
from rtseg.models.registry import resolve_model

VARIANTS = {
    "stdc2": ("stdc", {"encoder": "stdc2"}),
    "ppliteseg2": ("ppliteseg", {"encoder": "stdc2"}),
    "bisenetv2+aux": ("bisenetv2", {"aux": True}),
    "ddrnet+aux": ("ddrnet", {"aux": True}),
    "icnet+aux": ("icnet", {"aux": True}),
    "stdc+aux": ("stdc", {"aux": True}),
    "stdc2+aux": ("stdc", {"encoder": "stdc2", "aux": True}),
    "stdc+detail": ("stdc", {"detail": True}),
    "stdc2+detail": ("stdc", {"encoder": "stdc2", "detail": True}),
    "fasterseg_student": ("fasterseg", {"aux": False}),
}
PLAIN = (
    "adscnet",
    "aglnet",
    "bisenetv1",
    "bisenetv2",
    "canet",
    "cfpnet",
    "cgnet",
    "contextnet",
    "dabnet",
    "ddrnet",
    "dfanet",
    "edanet",
    "enet",
    "erfnet",
    "esnet",
    "espnet",
    "espnetv2",
    "fanet",
    "farseenet",
    "fastscnn",
    "fddwnet",
    "fpenet",
    "fssnet",
    "icnet",
    "lednet",
    "linknet",
    "litehrnet",
    "liteseg",
    "mininet",
    "mininetv2",
    "ppliteseg",
    "regseg",
    "segnet",
    "shelfnet",
    "sqnet",
    "stdc",
    "swiftnet",
)
OF_AUTHORS = tuple(name for name in list_models() if "authors" in list_sources(name))
WITH_HEADS = ("pidnet_s", "pidnet_m", "pidnet_l", "dsnet_head64", "dsnet_head128", "ddrnet_23_slim", "ddrnet_39")
ENTRIES = (
    *PLAIN,
    "stdcseg1",
    "stdcseg2",
    *VARIANTS,
    *OF_AUTHORS,
    *(f"{name}+aux" for name in OF_AUTHORS if name in WITH_HEADS),
)
SOURCES = {"stdcseg1": "stdc-seg", "stdcseg2": "stdc-seg", "fasterseg_student": "fasterseg"}


def options_of(entry: str) -> tuple[str, dict]:
    name, _, form = entry.partition("+")
    return VARIANTS.get(entry, (name, {form: True} if form else {}))


def source_of(entry: str) -> str:
    return "authors" if options_of(entry)[0] in OF_AUTHORS else SOURCES.get(entry, "zh320")


def is_training_form(entry: str) -> bool:
    return "+" in entry or entry.startswith("stdcseg")


def reference(shared, entry):
    """Keys with weights (those that no pass uses, and second names of shared ones, among them), image and outputs at every 8th pixel, made as zoo/golden.py says."""
    make = runpy.run_path(str(shared / "zoo/golden.py"))
    keys = json.loads((shared / f"zoo/keys/{entry}.json").read_text())
    state = make["golden_state"](keys["checkpoint_order"] | keys.get("idle", {}), "a")
    with np.load(shared / f"zoo/golden/{entry}.npz") as stored:
        for key in stored.files:
            if key.startswith("bn/"):
                state[key.removeprefix("bn/")] = torch.from_numpy(stored[key])
        state |= {again: state[key] for again, key in keys.get("aliases", {}).items()}
        outputs = [
            torch.from_numpy(stored[f"out{i}"]) for i in range(len([k for k in stored.files if k.startswith("out")]))
        ]
    return state, make["golden_input"]((1, 3, 256, 512), "a"), outputs


def published(shared, entry) -> tuple[SegNetwork, torch.Tensor, list[torch.Tensor]]:
    """Our network with the converted golden weights, in evaluation mode."""
    name, options = options_of(entry)
    state, image, outputs = reference(shared, entry)
    network = create_model(name, 19, **options)
    network.load_weights(convert_checkpoint(name, state, source=source_of(entry), **options))
    if name.startswith("segnext"):
        with np.load(shared / f"zoo/golden/{entry}.npz") as stored:
            network.head.factorise.bases.copy_(torch.from_numpy(stored["bases"]))
    return network.eval(), image, outputs


def carried_along(shared, entry) -> int:
    """Weights of the ImageNet classifier that the STDC authors' checkpoints hold and their networks never run."""
    keys = json.loads((shared / f"zoo/keys/{entry}.json").read_text())["checkpoint_order"]
    idle = ("cp.backbone.conv_last.", "cp.backbone.fc.", "cp.backbone.bn.", "cp.backbone.linear.")
    return sum(int(np.prod(shape)) for key, shape in keys.items() if key.startswith(idle) and "running" not in key)


def never_used(shared, entry) -> float:
    """GMAC at 512 x 1024 of the reference's convolutions whose results reach no output (ICNet runs its whole encoder twice)."""
    lines = (shared / f"zoo/facts/{entry}.txt").read_text().splitlines()
    reads = {m[1]: re.findall(r"%(\d+)", line.split("=", 1)[1]) for line in lines if (m := re.match(r"%(\d+) =", line))}
    live, todo = set(), re.findall(r"%(\d+)", lines[-1])
    while todo:
        live.add(n := todo.pop())
        todo += [s for s in reads[n] if s not in live]
    dead = 0
    for line in lines:
        m = re.match(r"%(\d+) = conv2d\(.*; (\d+)->(\d+) k(\d+) .* g(\d+) .*-> \[1, \d+, (\d+), (\d+)\]", line)
        if m and m[1] not in live:
            dead += int(m[2]) * int(m[3]) * int(m[4]) ** 2 // int(m[5]) * int(m[6]) * int(m[7])
    return 4 * dead / 1e9


def relative(found, wanted) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_every_network_of_the_reference_is_here():
    assert set(PLAIN) <= set(list_models()) and len(PLAIN) == 37


def test_every_tag_of_the_facts_is_a_name(shared):
    """`create_model` takes each tag without a form, with the parameters of the facts; a family's name with a size is the same network."""
    tags = [tag for tag in json.loads((shared / "zoo/summary.json").read_text()) if "+" not in tag]
    built = {tag: resolve_model(tag, {}) for tag in tags}
    assert len(tags) > 60 and all(name in list_models() for name, _ in built.values())
    assert {tag for tag, (name, _) in built.items() if name != tag} == {"stdc2", "ppliteseg2", "fasterseg_student"}
    for tag in OF_AUTHORS:
        family = model_info(tag).get("family")
        size = tag.removeprefix(family or tag).lstrip("_")
        assert not family or resolve_model(family, {"size": size}) == (tag, {})
    assert count_parameters(create_model("stdc2")) == count_parameters(create_model("stdc", encoder="stdc2"))
    assert count_parameters(create_model("topformer", size="t")) == count_parameters(create_model("topformer_t"))


CLOSE = 2e-5  # nearer than any two kernels of a deep network promise: no need to ask for its rounding
LENIENT = 3  # the stored outputs and ours each have a rounding error of about this size, of other kernels


def golden_outputs(network: SegNetwork, image: torch.Tensor, wanted: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs at every 8th pixel; those for training as the network gives them, or at the image's size, as they are stored."""
    with torch.no_grad():
        outputs = [network.eval()(image)]
        if len(wanted) > 1:
            network.training = True  # its heads run, its norms keep their statistics
            native, grown = network.predict(image), network(image)
            forms = [([*out.aux, *([] if out.detail is None else [out.detail])]) for out in (native, grown)]
            assert len(forms[0]) == len(wanted) - 1
            outputs += [
                a if a[..., ::8, ::8].shape == there.shape else b
                for a, b, there in zip(*forms, wanted[1:], strict=True)
            ]
    return [out[..., ::8, ::8] for out in outputs]


def beyond_rounding(network: SegNetwork, image: torch.Tensor, wanted: list[torch.Tensor]) -> float:
    """The greatest difference from the stored outputs in units of what is allowed, which is the network's own distance from itself in double precision: up to 1 they are equal."""
    found = golden_outputs(network, image, wanted)
    differences = [relative(ours, stored) for ours, stored in zip(found, wanted, strict=True)]
    beyond = max(differences) / CLOSE
    if beyond > 1:
        exact = golden_outputs(copy.deepcopy(network).double(), image.double(), wanted)
        own = [0.0] * len(wanted)
        for same in (
            image,
            torch.nextafter(image, torch.full_like(image, math.inf)),
        ):  # where maxima decide, a single rounding may be lucky: another one is asked then
            own = [
                max(most, relative(ours.double(), true))
                for most, ours, true in zip(own, golden_outputs(network, same, wanted), exact, strict=True)
            ]
            beyond = max(
                difference / max(CLOSE, LENIENT * rounding)
                for difference, rounding in zip(differences, own, strict=True)
            )
            if beyond <= 1:
                break
    return beyond


@pytest.mark.parametrize("entry", ENTRIES)
def test_golden_output(shared, entry):
    assert beyond_rounding(*published(shared, entry)) <= 1


def mirrored(network: SegNetwork) -> None:
    """The middle one of the convolutions with its kernels turned left to right: every shape stays, and every sum of weights."""
    wide = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[1] > 1]
    with torch.no_grad():
        wide[len(wide) // 2].weight.copy_(wide[len(wide) // 2].weight.flip(-1))


@pytest.mark.parametrize(
    ("entry", "times"), [("fastscnn", 10_000), ("stdcseg2", 1_000), ("erfnet", 50), ("mininetv2", 10)]
)
def test_a_wrong_network_is_far_beyond_its_rounding(shared, entry, times):
    """By orders of magnitude, up to where outputs have nothing in common any more (a relative difference of about 1, a hundred times MiniNetV2's rounding)."""
    network, image, wanted = published(shared, entry)
    mirrored(network)
    assert beyond_rounding(network, image, wanted) > times


@pytest.mark.parametrize("entry", ENTRIES)
def test_parameters_and_macs(shared, entry):
    facts = json.loads((shared / "zoo/summary.json").read_text())[entry]
    name, options = options_of(entry)
    if entry.startswith("stdcseg"):
        options = {"detail_strides": (2, 4, 8, 16)}
    with torch.device("meta"):  # shapes are all that is counted
        network = create_model(name, 19, **options)
    assert count_parameters(network, training=is_training_form(entry)) == facts["params"] - carried_along(shared, entry)
    if not is_training_form(entry):
        if entry == "fanet":
            network = create_model(name, 19, reference_order=True)
        wanted = facts["gmacs_512x1024"] - never_used(shared, entry)
        assert count_macs(network, (1, 3, 512, 1024)) / 1e9 == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("entry", ENTRIES)
def test_keys_that_do_not_fit_are_named(shared, entry):
    name, options = options_of(entry)
    state, _, _ = reference(shared, entry)
    source = source_of(entry)
    first = next(key for key in state if not key.startswith("cp.backbone."))
    changes = [
        ({k: v for k, v in state.items() if k != first}, first),
        ({**state, "stranger.weight": torch.zeros(1)}, "stranger.weight"),
        ({**state, first: torch.zeros(1, 2, 3)}, first),
    ]
    for changed, named in changes:
        with pytest.raises(ArtifactError, match=named.replace(".", r"\.")):
            convert_checkpoint(name, changed, source=source, **options)


@pytest.mark.parametrize("entry", ("rdrnet_s_simple", "rdrnet_m"))
def test_merged_network_is_the_deployed_one(shared, entry):
    """Parameters and operations of the authors' deployed network, and the same logits as before merging."""
    facts = json.loads((shared / "zoo/summary.json").read_text())[entry]["deployed"]
    network, image, wanted = published(shared, entry)
    small = merged(network)
    assert count_parameters(small) == facts["params"] and not can_merge(small) and can_merge(network)
    assert count_macs(small, (1, 3, 512, 1024)) / 1e9 == pytest.approx(facts["gmacs_512x1024"], rel=1e-3)
    with torch.no_grad():
        assert (
            relative(small(image), network(image)) < 3e-5
            and relative(small.double()(image.double()), network.double()(image.double())) < 1e-5
        )
