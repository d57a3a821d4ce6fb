"""The depths, widths and encoders that papers name, and every decoder of SMP, under the contract of all networks."""

import pytest
import torch

from rtseg.core.errors import ConfigError
from rtseg.models import count_parameters, create_model, list_models, model_info
from rtseg.models.checking import check_training, smallest_of_families
from rtseg.models.smp import DECODERS

VARIANTS = [
    ("icnet", {"encoder": "resnet50"}),
    ("icnet", {"encoder": "mobilenetv2_100"}),
    ("icnet", {"encoder": "resnet34"}),
    ("pspnet", {"encoder": "resnet18"}),
    ("cgnet", {"blocks": (3, 21)}),
    ("ddrnet", {"width": 64}),
    ("litehrnet", {"depth": 30}),
    ("regseg", {"last_stride": 1}),
    ("bisenetv1", {"encoder": "resnet34"}),
    ("swiftnet", {"encoder": "resnet34"}),
    ("fanet", {"encoder": "resnet34"}),
    ("linknet", {"encoder": "resnet34"}),
    ("farseenet", {"encoder": "resnet34"}),
    ("shelfnet", {"encoder": "resnet34"}),
    ("stdc", {"encoder": "stdc2", "aux": True, "detail": True}),
    ("ppliteseg", {"encoder": "stdc2"}),
    ("stdcseg2", {"detail_strides": (2, 4, 8)}),
    *(("smp", {"decoder": decoder}) for decoder in DECODERS),
    ("smp", {"encoder": "resnet101", "decoder": "deeplabv3plus"}),
    *((name, {}) for name in sorted({*list_models()} - {*smallest_of_families()})),
]


@pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_variant_keeps_the_contract(name, options):
    network = create_model(name, 5, **options)
    with torch.device("meta"), torch.no_grad():
        shapes = [
            create_model(name, 5, **options).eval()(torch.empty(1, 3, *size)).shape[2:]
            for size in ((360, 480), (375, 1242), (721, 1281))
        ]
    with torch.inference_mode():
        assert network.eval()(torch.randn(1, 3, 65, 97)).shape == (1, 5, 65, 97)
    assert shapes == [(360, 480), (375, 1242), (721, 1281)]
    assert check_training(network).startswith("batch of 1")


def test_a_family_is_asked_for_by_size():
    """Every size of every family, and what is left of its name is the size."""
    families = {name: model_info(name)["family"] for name in list_models() if "family" in model_info(name)}
    assert {"pidnet_s", "ddrnet_39", "ffnet78s"} <= set(families)
    with torch.device("meta"):
        for name, family in families.items():
            sized = create_model(family, 5, size=name.removeprefix(family).lstrip("_"))
            assert type(sized) is type(create_model(name, 5)) and count_parameters(sized) == count_parameters(
                create_model(name, 5)
            )


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (("cgnet", {}), ("cgnet", {"blocks": (3, 21)})),
        (("ddrnet", {}), ("ddrnet", {"width": 64})),
        (("litehrnet", {}), ("litehrnet", {"depth": 30})),
        (("stdc", {}), ("stdc", {"encoder": "stdc2"})),
    ],
)
def test_larger_variants_are_larger(small, large):
    assert count_parameters(create_model(small[0], 19, **small[1])) < count_parameters(
        create_model(large[0], 19, **large[1])
    )


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("litehrnet", {"depth": 24}, "30"),
        ("ddrnet", {"width": 48}, "64"),
        ("icnet", {"encoder": "resnet51"}, "resnet5"),
        ("smp", {"decoder": "unett"}, "unet"),
    ],
)
def test_other_variants_are_refused_with_what_is_allowed(name, options, named):
    with pytest.raises(ConfigError, match=named):
        create_model(name, 5, **options)
