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


def test_arguments_and_places():
    spec = Spec.parse("EMA( groups = 8 , start=paper )@ neck, P3")
    assert spec == Spec("ema", {"groups": 8}, "paper", ("neck", "P3"))
    assert str(spec) == "ema(groups=8, start=paper)@neck,P3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emma", "no attention is named 'emma'; did you mean 'ema'"),
        ("ema(factor=8)", "ema has no argument 'factor'; it takes groups, start"),
        ("ema(8)", "cannot read '8' in 'ema\\(8\\)' as an argument; write for example groups=8"),
        ("ema(groups=)", "cannot read 'groups='"),
        ("ema(start=warm)", "start='warm' is not a way to start; start=identity or start=paper"),
        ("ema[8]", "cannot read 'ema\\[8\\]' as an attention; write for example ema\\(groups=8\\)@neck"),
        ("", "cannot read '' as an attention"),
    ],
)
def test_what_cannot_be_read_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        Spec.parse(text)
