"""What numbers in an attention's row mean: all forms on the cards, and what fits none or several."""

import inspect
import itertools

import pytest

from foveal import ATTENTIONS, Spec, UserError
from foveal.surgery import model_yaml, spelling

SCALED = model_yaml.scaled({"scales": {"n": [0.5, 0.25, 1024]}, "scale": "n"})


def read(name: str, numbers: list, width: int = 256) -> dict:
    return spelling.read(Spec(name), numbers, width, SCALED).arguments


@pytest.mark.parametrize(
    ("name", "numbers", "arguments"),
    [
        ("ema", [256], {}),
        ("ema", [1024], {}),  # before scaling
        ("ema", [256, 256], {}),
        ("ema", [8], {"groups": 8}),
        ("cbam", [256, 7], {}),
        ("cbam", [1024, 7], {}),
        ("cbam", [7], {}),
        ("cbam", [1024, 1024, 8, 7], {"reduction": 8}),
        ("se", [16], {"reduction": 16}),
        ("se", [256, 8], {"reduction": 8}),
        ("eca", [3], {"kernel_size": 3}),
        ("eca", [256, 2, 1], {}),
        ("coord", [256, 256, 16], {"reduction": 16}),
        ("simam", [1e-4], {"e_lambda": 1e-4}),
        ("simam", ["1e-4"], {"e_lambda": 1e-4}),  # as YAML reads it
        ("simam", [None, 1e-4], {"e_lambda": 1e-4}),
        ("sa", [256, 16, 8], {"groups": 8}),
        ("sa", [8], {"groups": 8}),  # the authors' groups, or the reduction of copies whose groups are 8
        ("lska", [11], {"kernel_size": 11}),
        ("triplet", [False], {}),
    ],
    ids=str,
)
def test_forms_in_circulation(name, numbers, arguments):
    assert read(name, numbers) == arguments


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("ema", [256, 8], r"says \[256, 8\], which is no form in which ema is written; .*groups: 32"),
        ("sa", [16], r"can mean sa\(groups=16\) or sa\(groups=8\); .*groups: 64"),
        ("cbam", [3], r"says \[3\], which is no form in which cbam is written; .*reduction: 16"),
        ("cbam", [512], r"says 512 channels, but the row it reads has 256; write \[\]"),
        ("nam", [7], r"no form in which nam is written; write \[\]$"),
        ("se", ["wide"], "no form in which se is written"),
        ("eca", [True], "no form in which eca is written"),
        ("se", [{}], "no form in which se is written"),
    ],
    ids=str,
)
def test_what_is_not_plain_is_refused_with_the_attentions_own_arguments(name, numbers, message):
    with pytest.raises(UserError, match=message):
        read(name, numbers)


def test_an_argument_by_position_and_by_name_is_refused():
    with pytest.raises(UserError, match="gives reduction by position and by name"):
        spelling.read(Spec("se", {"reduction": 8}), [16], 256, SCALED)


FORMS = [(name, form) for name, cls in ATTENTIONS.items() for form in cls.card.rows]


@pytest.mark.parametrize(("name", "form"), FORMS, ids=lambda x: x if isinstance(x, str) else None)
def test_every_form_builds_whatever_its_numbers(name, form):
    takes = inspect.signature(ATTENTIONS[name]).parameters
    assert form.implies.keys() <= takes.keys()
    for numbers in itertools.product(*(slot.usual for slot in form.numbers)):
        width = [] if form.alone else [512]
        try:
            arguments = read(name, [*width, *numbers], 512)
        except UserError as refusal:
            assert "can mean" in refusal.message  # noqa: PT017  (several forms share these numbers)
            continue
        ATTENTIONS[name](512, **arguments)
