"""Distillation: losses against plain NumPy, hard batches, every network as teacher and as student, the cache, teachers from files."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rtseg.core.architecture import Architecture, Branch
from rtseg.core.errors import ArtifactError, ConfigError
from rtseg.core.files import save_tensors
from rtseg.core.values import SegOutput
from rtseg.evaluation.evaluator import save_trained
from rtseg.models import create_model
from rtseg.models.checking import smallest_of_families
from rtseg.models.fasterseg import FasterSeg
from rtseg.core.states import weights_checksum
from rtseg.search.spaces import open_space
from rtseg.training.distillation import (
    DistillationConfig,
    Distiller,
    TeacherCache,
    build_distiller,
    cwd_distillation,
    kl_distillation,
    load_teacher,
    mse_distillation,
)

KINDS = {"kl": kl_distillation, "mse": mse_distillation, "cwd": cwd_distillation}


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def plain(kind, s, t, temperature, valid):
    """The three distances in NumPy; s and t are N x C x H x W, valid is N x H x W."""
    if kind == "mse":
        return ((s - t) ** 2).mean(1)[valid].mean()
    if kind == "kl":
        p, q = softmax(t / temperature, 1), softmax(s / temperature, 1)
        return (p * np.log(p / q)).sum(1)[valid].mean() * temperature**2
    values = []
    for n in range(len(s)):
        if valid[n].any():
            p, q = (softmax(y[n][:, valid[n]] / temperature, 1) for y in (t, s))
            values.append((p * np.log(p / q)).sum() * temperature**2 / s.shape[1])
    return np.mean(values)


def settled(name, images, **options):
    """A network whose batch norms have seen images: with fresh statistics deep ones answer with zeros."""
    network = create_model(name, 5, **options).train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momentum = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(images)
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    return network.eval()


def measure(kind, student, teacher, *, temperature=4.0, valid=None):
    options = {} if kind == "mse" else {"temperature": temperature}
    return KINDS[kind](student, teacher, valid=valid, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_are_numpys(kind, temperature, layout):
    rng = np.random.default_rng(0)
    s, t = rng.normal(0, 3, (3, 19, 6, 7)), rng.normal(0, 3, (3, 19, 6, 7))
    valid = rng.random((3, 6, 7)) < 0.6
    valid[1] = False
    student, teacher = (torch.from_numpy(y).float().to(memory_format=layout) for y in (s, t))
    for mask in (valid, np.ones_like(valid)):
        found = measure(kind, student, teacher, temperature=temperature, valid=torch.from_numpy(mask))
        assert math.isclose(found.item(), plain(kind, s, t, temperature, mask), rel_tol=1e-4)
    assert torch.allclose(measure(kind, student, teacher, temperature=temperature), found, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 3, generator=generator) for _ in range(2))
    student.requires_grad_()
    measure(kind, student, teacher).backward()
    for place in ((0, 0, 0, 0), (1, 2, 1, 2), (0, 1, 1, 0)):
        step = torch.zeros_like(teacher)
        step[place] = 0.05
        with torch.no_grad():
            slope = (measure(kind, student + step, teacher) - measure(kind, student - step, teacher)).item() / 0.1
        assert math.isclose(student.grad[place].item(), slope, abs_tol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batches_that_break_losses(kind, dtype):
    generator = torch.Generator().manual_seed(0)
    for shape, known in (
        ((2, 5, 4, 4), 0),
        ((2, 5, 4, 4), 1),
        ((2, 5, 4, 4), 32),
        ((1, 5, 1, 1), 1),
        ((2, 1, 4, 4), 32),
    ):
        student, teacher = (20 * torch.randn(shape, generator=generator) for _ in range(2))
        student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
        valid = (torch.arange(shape[0] * shape[2] * shape[3]) < known).view(shape[0], *shape[2:])
        loss = measure(kind, student, teacher, valid=valid)
        loss.backward()
        assert loss.dtype == torch.float32 and math.isfinite(loss.item()) and torch.isfinite(student.grad).all()
        # one class has nothing to choose from (kl), one pixel no place to choose from (cwd)
        blind = known == 0 or (kind == "kl" and shape[1] == 1) or (kind == "cwd" and known == 1)
        assert (abs(loss.item()) < 1e-6) == blind == bool((student.grad.abs() < 1e-6).all()), (shape, known)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_another_resolution_is_resized_to_the_student(kind):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(2, 4, 3, 4, generator=generator)
    fitted = nn.functional.interpolate(teacher, size=(6, 8), mode="bilinear", align_corners=True)
    assert torch.allclose(measure(kind, student, teacher), measure(kind, student, fitted))
    term = Distiller(nn.Identity(), kind=kind, stride=2).term(student, teacher, torch.ones(2, 12, 16, dtype=torch.bool))
    assert torch.allclose(
        term, measure(kind, student[..., ::2, ::2], fitted[..., ::2, ::2], temperature=1.0), atol=1e-5
    )
    with pytest.raises(ConfigError, match="the same classes"):
        measure(kind, student, teacher[:, :3])


def test_settings_and_refusals():
    small = create_model("fastscnn", 5)
    for config, augmented, words in (
        (DistillationConfig(cache="disk"), True, "randomly augmented"),
        (DistillationConfig(cache="disk"), False, "needs a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_distiller(config, small, augmented=augmented)
    with pytest.raises(ConfigError, match="teacher knows 5 classes and the student 7"):
        build_distiller(DistillationConfig(), small, student=create_model("dabnet", 7))
    made = build_distiller(DistillationConfig(kind="cwd", temperature=4, weight=2, precision="bf16"), small, stride=2)
    assert (made.kind, made.temperature, made.weight, made.stride, made.precision) == ("cwd", 4, 2, 2, "bf16")
    with pytest.raises(ConfigError, match="choose bf16 or fp32"):
        Distiller(small, precision="fp16").guide(torch.zeros(1, 3, 64, 64))
    for data, words in (
        ({"kind": "mse", "temperature": 2}, "no temperature"),
        ({"kind": "cwd", "toward": "student"}, "belongs to kl"),
        ({"kind": "at"}, "kind"),
    ):
        with pytest.raises(ConfigError, match=words):
            DistillationConfig.parse(data)


@pytest.mark.parametrize("name", smallest_of_families())
def test_every_network_teaches_and_learns(name):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 96)
    valid = torch.rand(2, 64, 96) < 0.8
    student = create_model(name, 5).train()
    distiller = build_distiller(DistillationConfig(), create_model(name, 5), student=student)
    guide = distiller.guide(images)
    assert (
        guide.shape == (2, 5, 64, 96)
        and not guide.requires_grad
        and not any(p.requires_grad for p in distiller.teacher.parameters())
    )
    output = student(images)
    logits = output.logits if isinstance(output, SegOutput) else output
    for kind in KINDS:
        distiller.kind = kind
        term = distiller.term(logits, guide, valid)
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
        assert (
            math.isfinite(term.item())
            and term.item() > 0
            and gradient.abs().sum() > 0
            and bool((gradient[:, :, ~valid[0]][0] == 0).all())
        ), kind
    term.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


@pytest.mark.parametrize("name", ["dabnet", "stdc", "smp"])
def test_half_precision_is_near(name):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 96)
    network = settled(name, images)
    full, half = (Distiller(network, precision=precision).guide(images) for precision in ("fp32", "bf16"))
    likeness = torch.corrcoef(torch.stack([full.flatten(), half.float().flatten()]))[0, 1].item()
    assert full.dtype == torch.float32 and half.dtype == torch.bfloat16 and 0.9 < likeness < 1 - 1e-7
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Distiller(network, precision="fp32").guide(images), full), "fp32 holds inside a run in bf16"
        assert not torch.equal(Distiller(network).guide(images).float(), full)


class Counting(nn.Module):
    """A teacher without any contract that counts the images it sees."""

    def __init__(self):
        super().__init__()
        self.body, self.seen = nn.Conv2d(3, 5, 3, padding=1), 0

    def forward(self, x):
        self.seen += len(x)
        return self.body(x)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cached_teacher_is_asked_once_an_image(tmp_path, on_disk):
    teacher = Counting()
    images = torch.randn(4, 3, 32, 48)
    names = ("a", "b", "c", "d")
    expected = Distiller(teacher).guide(images)
    config = DistillationConfig(cache="disk" if on_disk else "memory")
    distiller = build_distiller(config, teacher, augmented=False, folder=tmp_path)
    teacher.seen = 0
    for order in ([0, 1], [1, 2], [3, 0], [2, 1], [3, 3]):
        found = distiller.guide(images[order], tuple(names[i] for i in order))
        assert torch.allclose(found, expected[order], atol=1e-6)
    assert teacher.seen == 4 and len(distiller.cache) == 4
    assert len(list(tmp_path.iterdir())) == (4 if on_disk else 0)
    again = build_distiller(config, teacher, augmented=False, folder=tmp_path)
    again.guide(images, names)
    assert teacher.seen == (4 if on_disk else 8), "a folder outlives the run"
    with pytest.raises(ConfigError, match="one name for each of the 4 images"):
        distiller.guide(images)


def test_a_cache_never_answers_for_something_else(tmp_path):
    teacher = Counting()
    cache, image = TeacherCache(weights_checksum(teacher.state_dict()), folder=tmp_path), torch.randn(3, 32, 48)
    cache.put(cache.key("a", image), torch.zeros(5, 4, 6))
    others = [
        cache.key("b", image),
        cache.key("a", image.flip(-1)),
        cache.key("a", image[:, :16]),
        cache.key("a", image + 1),
    ]
    with torch.no_grad():
        teacher.body.bias[2] += 1e-3
    others.append(TeacherCache(weights_checksum(teacher.state_dict())).key("a", image))
    assert all(cache.get(key) is None for key in others) and len(set(others)) == 5
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactError, match="cannot be read"):
        cache.get(cache.key("a", image))


def test_the_cache_keeps_what_the_network_computes(tmp_path):
    torch.manual_seed(0)
    for name, size in (("fastscnn", (8, 12)), ("stdc", (8, 12)), ("fasterseg", (8, 12))):
        images = torch.randn(2, 3, 64, 96)
        network = settled(name, images)
        assert network(images).abs().max() > 0.1
        cached = Distiller(network, cache=TeacherCache(weights_checksum(network.state_dict())))
        first, second = cached.guide(images, ("a", "b")), cached.guide(images, ("a", "b"))
        assert torch.equal(first, second) and torch.allclose(first, network(images), atol=1e-5)
        assert {tuple(logits.shape) for logits in cached.cache._kept.values()} == {(5, *size)}


def test_teachers_from_files(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 96)
    arch = Architecture(
        branches=(
            Branch(ops=(3, 2, 4, 4), scales=(0, 0, 1, 1), widths=(4, 4, 4)),
            Branch(ops=(3, 2, 4), scales=(0, 0, 0), widths=(4, 4)),
        ),
        base_width=8,
        stem_width=8,
        head_width=8,
    )
    pictures, street = torch.randn(2, 3, 64, 96), open_space("street").sample(torch.Generator().manual_seed(3))
    cases = (
        ("stdc", settled("stdc", pictures, aux=True, detail=True), {}),
        (arch, FasterSeg(arch, 5), {}),
        ("smp", settled("smp", pictures), {"encoder": "resnet18"}),
        (street, street.build(5), {}),
    )
    for i, (network, original, options) in enumerate(cases):
        original.eval()
        save_trained(tmp_path / f"{i}" / "ema.safetensors", original.state_dict(), epoch=1, which="ema", seed=0)
        save_tensors(tmp_path / f"{i}.safetensors", original.state_dict())
        torch.save({"state_dict": original.state_dict()}, tmp_path / f"{i}.pth")
        for source in (tmp_path / f"{i}", tmp_path / f"{i}.safetensors", tmp_path / f"{i}.pth"):
            teacher = load_teacher(network, source, num_classes=5, which="ema", **options)
            assert (
                torch.equal(teacher(images), original(images))
                and not teacher.training
                and not any(p.requires_grad for p in teacher.parameters())
            )
    with pytest.raises(ArtifactError, match="STDC with 7 classes"):
        load_teacher("stdc", tmp_path / "0.safetensors", num_classes=7)
    with pytest.raises(ArtifactError, match="does not exist"):
        load_teacher("stdc", tmp_path / "nowhere.pth", num_classes=5)
    with pytest.raises(ConfigError, match="did you mean 'stdc'"):
        load_teacher("sdtc", tmp_path / "0.safetensors", num_classes=5)
