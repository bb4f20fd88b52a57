"""Which attention is it? Pasted copies of the authors' classes, recognised by the state that a checkpoint stores.

The name of a class proves nothing: a dozen different modules are called EMA. What counts is the shapes of the tensors,
the settings of the layers that hold them (kernel, padding, dilation, eps), the kinds and settings of the layers that
hold none (a ReLU where the authors have a SiLU, or a softmax over another dimension, is another function), and the
plain values that the object recorded (groups, heads). `fitting` finds the layers' places under whatever names they
have, `copies` knows what each attention may store.

Two codes with equal states cannot be told apart: one that adds its input to its output stores nothing else than one
that does not. So a copy may be recognised, recognised with something `assumed`, or doubtful: what speaks `against`
it, and what is too `weak` to speak for it, needs a person's word or the old code (`oldcode`).

Not here are `hab` and `ocab`, whose authors' classes take tokens and window indices, so that no row can hold them, and
`gam`, of which most copies leave out a sigmoid that no file tells of.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..attention import Attention, find
from ..checkpoints import Node
from ..errors import UserError
from ..surgery import Spec, read_arguments
from .copies import CONTAINERS, PASTED, RULES, Rule, Stored, class_name, plain
from .fitting import Fitted, differing, fitted, own_units

_MOST = 24  # ways to place the layers of one attention that are looked at
_TORCH = "torch.nn.modules."


@dataclass(frozen=True)
class Pasted:
    """A pasted attention in foveal's terms.

    Attributes:
        path: module and name of the class it was pickled as.
        spec: the attention and its arguments, as the bare module.
        channels: a width that it takes: its own, where anything depends on it.
        state: its tensors, by foveal's names and in foveal's shapes.
        added: those that the copy has not, with values that change nothing.
        shifted: those whose values are others, so that outputs are the same.
        assumed: what the file cannot tell and was taken for granted.
        against: what the file stores and the attention would not.
        weak: why what is stored is too little to tell, "" where it is enough.
    """

    path: str
    spec: Spec
    channels: int
    state: dict[str, Tensor]
    added: tuple[str, ...]
    shifted: tuple[str, ...]
    assumed: tuple[str, ...]
    against: tuple[str, ...]
    weak: str

    @property
    def certain(self) -> bool:
        """Whether nothing that is stored leaves a doubt."""
        return not (self.against or self.weak)

    def build(self) -> Attention:
        """A module like it, with its tensors, in double precision."""
        module = find(self.spec.name)(self.channels, **self.spec.arguments).double().eval()
        module.load_state_dict(module.state_dict() | self.state)
        return module


@dataclass(frozen=True)
class Said:
    """What a person says that a pasted class is.

    Attributes:
        spec: the attention, with the arguments that the file does not tell.
        places: the copy's layers by foveal's names, for layers that cannot be told apart; and under "first" which of
            "mean" and "max" a kernel of two maps takes first.
    """

    spec: Spec
    places: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Said":
        """Read `simam`, `simam(e_lambda=0.001)`, `cbam(first=max)` or `coord(gate_h=conv_a, gate_w=conv_b)`.

        Raises:
            UserError: the text has another form, or names an attention or an argument that is not known.
        """
        name, _, inside = text.strip().partition("(")
        closed = inside.strip().endswith(")") or "(" not in text
        arguments = read_arguments(inside.strip().removesuffix(")") if closed else "(", text, "simam(e_lambda=0.0001)")
        places = {key: value for key, value in arguments.items() if isinstance(value, str) and key != "start"}
        spec = Spec.of(name.strip(), {key: value for key, value in arguments.items() if key not in places})
        if spec.name not in RULES:
            raise UserError(f"no pasted {spec.name} can be taken over", f"it can be {', '.join(RULES)}")
        if places.get("first", "max") not in ("max", "mean"):
            raise UserError(f"{text!r}: first={places['first']} is neither of the two maps", "first=max or first=mean")
        return cls(spec, places)


def candidates(node: Node, said: Said | None = None) -> list[Pasted]:
    """Every form of every attention that has the module's tensors, the doubtful ones with it; the likeliest first.

    Args:
        node: a stored module.
        said: what a person says that it is: then only forms of that, and what is stored need not prove it.
    """
    stored = Stored.of(node, said.spec.arguments if said else {})
    found = []
    for name, rule in RULES.items():
        if said and name != said.spec.name:
            continue
        try:
            arguments = {**rule.infer(stored), **stored.given}
            with torch.device("meta"):  # shapes are all that is asked for
                module = find(name)(**arguments)
            forms = list(itertools.islice((_renamed if rule.reshaped else _placed)(node, module, stored), _MOST))
        except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
            continue  # not this one
        for form, mean_first in _forms(forms, rule, stored, said):
            named = form.named and (not rule.named or rule.named in stored.plain)
            found.append(
                Pasted(
                    path=node.path,
                    spec=Spec(name, {key: value for key, value in arguments.items() if key != "channels"}, "paper"),
                    channels=arguments["channels"],
                    state=form.state,
                    added=form.added,
                    shifted=form.shifted,
                    assumed=_assumed(form, mean_first, rule, stored, said),
                    against=(*form.against, *_against(node, rule)),
                    weak="" if said else _weak(node, named, rule, stored),
                )
            )
    return found


def without_doubt(found: Iterable[Pasted]) -> list[Pasted]:
    """Of what `candidates` found, each attention that leaves no doubt, in its likeliest form; one is an answer."""
    first: dict[str, Pasted] = {}
    for each in found:
        if each.certain:
            first.setdefault(each.spec.name, each)
    return list(first.values())


def _forms(forms: list[Fitted], rule: Rule, stored: Stored, said: Said | None) -> Iterator[tuple[Fitted, bool | None]]:
    """Each form in each order of its two maps, with whether the mean comes first: None where that is no question."""
    told = dict(said.places) if said else {}
    first = told.pop("first", None)
    for form in forms:
        if any(form.places.get(place) != layer for place, layer in told.items()):
            continue
        if not rule.two_maps or (form.named and first is None):
            if first is None:
                yield form, None
            continue
        # A copy that makes the pool of the maximum first also puts its map first, wherever both orders were seen.
        pools = [name for name in stored.silent if name in ("AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "ChannelPool")]
        likely = not pools or pools[0] == "AdaptiveAvgPool2d" if first is None else first == "mean"
        for mean_first in (likely, not likely) if first is None else (likely,):
            yield _swapped(form) if mean_first else form, mean_first


def _swapped(form: Fitted) -> Fitted:
    """The same with the other map first, in kernels of two maps."""
    return replace(form, state={name: t.flip(1) if t.shape[:2] == (1, 2) else t for name, t in form.state.items()})


def _placed(_: Node, module: Attention, stored: Stored) -> Iterator[Fitted]:
    """Forms by what the layers are."""
    cls = type(module)
    ours = own_units(module, cls.renamed)
    theirs = set(cls.renamed.values())

    def official(name: str) -> str:
        (mine,) = cls.from_official({name: torch.empty(0)})
        unnamed = mine == name and any(f"{name}.".startswith(f"{own}.") for own in theirs)
        return "" if unnamed else mine

    return fitted(ours, stored.units, official)


def _renamed(node: Node, module: Attention, stored: Stored) -> Iterator[Fitted]:
    """The form by the authors' names, where all of them are there."""
    cls = type(module)
    state = cls.from_official(stored.tensors)
    if _shapes(state) != _shapes(module.state_dict()):
        return
    shifted, against = [], []
    for path, part in node.walk():
        for own, tensor in part.own_tensors().items():
            name = next(iter(cls.from_official({f"{path}.{own}".lstrip("."): tensor}))).rpartition(".")[0]
            layer = module.get_submodule(name)
            if not name:
                continue
            wanted = {key: value for key, value in vars(layer).items() if key != "eps" or not _is_norm(layer)}
            against += differing(part.state, wanted, path)
            if _is_norm(layer) and own == "running_var" and part.state["eps"] != layer.eps:
                # The host sets its own eps on all batch norms. Outputs depend on its sum with the variance.
                state[f"{name}.{own}"] = tensor.double() + (part.state["eps"] - layer.eps)
                shifted.append(f"{name}.{own}")
    yield Fitted(state, (), tuple(shifted), tuple(dict.fromkeys(against)), (), True, {})


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm2d)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


# Doubts ------------------------------------------------------------------------------------------------------------


def _assumed(form: Fitted, mean_first: bool | None, rule: Rule, stored: Stored, said: Said | None) -> tuple[str, ...]:
    """What a file cannot tell, and nobody said."""
    told = said.places if said else {}
    found = [] if set(told) & set(form.places) else list(form.by_order)
    if mean_first is not None and "first" not in told:
        found.append(f"its kernel takes the {'mean' if mean_first else 'maximum'} over channels first")
    if rule.named and not said:
        found.append(f"it is told by the name of {rule.named} alone, and other functions have stored the same")
    return tuple(found)


def _weak(node: Node, named: bool, rule: Rule, stored: Stored) -> str:
    """Why what is stored is too little."""
    if not named and (rule.thin or rule.named):
        return f"it stores {stored}, which does not tell"
    if not named and (lacking := [each for each in sorted(rule.evidence) if each not in stored.silent]):
        return f"its layers have other names than the authors', and it stores no {lacking[0]}"
    if rule.one_of and rule.one_of.isdisjoint(stored.silent):
        return f"it stores no {' or '.join(sorted(rule.one_of))}"
    used = {rule.named, *rule.known}
    odd = [
        f"{key}={value!r}"
        for _, part in node.walk()
        if not part.path.startswith(_TORCH)
        for key, value in plain(part).items()
        if key not in used and (value is True or isinstance(value, float))
    ]
    return f"what {odd[0]} means stands in its code only" if odd else ""


def _against(node: Node, rule: Rule) -> list[str]:
    """Parts without tensors, and their settings, that the attention would not have."""
    found, strips = [], []
    allowed = {**{name: ({},) for name in rule.one_of}, **rule.silent}
    for path, part in node.walk():
        last = class_name(part)
        if not path or part.tensors() or (last in CONTAINERS and part.path.startswith(_TORCH)):
            continue
        settings = allowed.get(last)
        if settings is None or not (part.path.startswith(_TORCH) or last in PASTED):
            found.append(f"{path} is a {part.path}")
            continue
        if path in rule.positions:
            settings = (rule.positions[path],)
        least = min((differing(part.state, wanted, path) for wanted in settings), key=len)
        found += least
        strips += [part.state.get("output_size")] if last == "AdaptiveAvgPool2d" else []
    if any(strips.count(strip) > 1 for strip in ((None, 1), (1, None))):
        found.append("two of its pools go over the same side")
    return found
