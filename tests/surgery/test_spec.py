import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal import Spec, UserError

places = st.lists(st.sampled_from(["neck", "P3", "backbone.P4", "paper", "16"]), max_size=3, unique=True).map(tuple)
arguments = st.dictionaries(st.just("groups"), st.integers(1, 64), max_size=1)
starts = st.sampled_from([None, "identity", "paper"])


@given(st.builds(Spec, st.just("ema"), arguments, starts, places))
def test_parse_reads_what_str_writes(spec):
    assert Spec.parse(str(spec)) == spec


def test_every_name_of_an_attention_is_the_same_attention():
    assert {Spec.parse(name).name for name in ("ema", "EMA", "EMAttention", "emattention", " ema ")} == {"ema"}


@given(st.lists(st.integers(1, 9), min_size=1), st.sampled_from(["identity", "paper"]))
def test_lists_are_values_too(dilations, start):
    spec = Spec("msda", {"dilations": dilations}, start, ("P3",))
    assert Spec.parse(str(spec)) == spec


def test_values_of_every_type_an_attention_takes():
    for text in (
        "eca(kernel_size=None)",
        "eca(kernel_size=3)",
        "mhsa(size=[40, 20])",
        "mhsa(size=20)",
        "hab(mlp_ratio=1)",
    ):
        assert str(Spec.parse(text)) == text


def test_arguments_and_places():
    spec = Spec.parse("EMA( groups = 8 , start=paper )@ neck, P3")
    assert spec == Spec("ema", {"groups": 8}, "paper", ("neck", "P3"))
    assert str(spec) == "ema(groups=8, start=paper)@neck,P3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emma", "no attention is named 'emma'; did you mean 'ema'"),
        ("ema(factor=8)", "ema has no argument 'factor'; it takes groups, start"),
        ("ema(8)", "cannot read the arguments of 'ema\\(8\\)'; write for example ema\\(groups=8\\)"),
        ("ema(groups=)", "cannot read the arguments"),
        ("ema(groups=8, groups=4)", "cannot read the arguments"),
        ("ema(**x)", "cannot read the arguments"),
        ("ema(groups=f(8))", "cannot read the arguments"),
        ("ema(groups=8)(groups=4)", "cannot read the arguments"),
        ("ema(groups=many)", "ema: groups='many' is not of type int; write for example groups=32"),
        ("ema(groups=8.0)", "groups=8.0 is not of type int"),
        ("ema(groups=True)", "groups=True is not of type int"),
        ("hab(conv_scale=x)", "conv_scale='x' is not of type float; write for example conv_scale=0.01"),
        (
            "msda(dilations=2)",
            r"dilations=2 is not of type Sequence\[int\]; write for example dilations=\(1, 2, 3, 4\)",
        ),
        ("msda(dilations=[1, x])", "cannot read the arguments"),
        ("msda(qkv_bias=1)", "qkv_bias=1 is not of type bool"),
        ("mhsa(size=[1, 2.5])", r"size=\[1, 2.5\] is not of type int \| Sequence\[int\]"),
        ("ema(start=warm)", "start='warm' is not a way to start; start=identity or start=paper"),
        ("ema[8]", "cannot read 'ema\\[8\\]' as an attention; write for example ema\\(groups=8\\)@neck"),
        ("", "cannot read '' as an attention"),
        ("own.py@P3", "cannot read 'own.py@P3' as an attention; name its class, as in own.py:ItsClass@P3"),
        ("ema（groups=8）@neck，P2", r"full-width punctuation; write 'ema\(groups=8\)@neck,P2'"),
    ],
)
def test_what_cannot_be_read_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        Spec.parse(text)
