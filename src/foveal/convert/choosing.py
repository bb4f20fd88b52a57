"""Which attention a pasted class is, of those it may be: as a person says, by its outputs, or by what it stores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from ..checkpoints import Node
from ..errors import UserError
from . import oldcode
from .recognition import Pasted, Said, candidates, without_doubt


@dataclass
class Chooser:
    """Chooses, and refuses where nothing is certain.

    Attributes:
        said: what a person says, by row number or by name of a class.
        old: the old model, where its code may be run.
        is_known: whether a name is a class of this host, of torch or of ours.
        untested: why outputs were not compared, "" where they were.
        apart: the largest relative difference of outputs so far.
    """

    said: Mapping[str, Said]
    old: nn.Module | None
    is_known: Callable[[str], bool]
    untested: str = ""
    apart: float = 0.0
    _used: set[str] = field(default_factory=set)

    def choose(self, index: int, name: str, node: Node) -> Pasted | None:
        """What the module called `name` in row `index` is; None for none of foveal's attentions.

        Raises:
            UserError: it may be one, or several, and nothing settles it.
        """
        said = self._said(index, name, node)
        found = candidates(node, said)
        if said and not found:
            raise UserError(
                f"row {index} is a {node.path}, and what it stores does not fit {said.spec.name}: {described(node)}",
                f"foveal show {said.spec.name} says what it is made of",
            )
        if self.is_known(node.path) and not said:  # of the host's own only what is an attention beyond doubt
            found = [each for each in found if each.certain]
        if found and self.old is not None:
            try:
                return self._by_outputs(index, name, node, found)
            except oldcode.CannotRunError as error:
                self.untested = f"the old code of row {index} does not run: {error}"
        return self._by_what_is_stored(index, node, found)

    def require_used(self) -> None:
        """Check that everything that was said is about something in the file.

        Raises:
            UserError: it is not.
        """
        for key in self.said:
            if key not in self._used:
                raise UserError(
                    f"nothing pasted in the file is row or class {key!r}",
                    "say for example --as 10=simam, or --as SimAM=simam",
                )

    def _said(self, index: int, name: str, node: Node) -> Said | None:
        keys = [node.path, node.path.rpartition(".")[2]]
        if name == f"model.{index}" or not self.is_known(node.path):
            keys.insert(0, str(index))
        for key in keys:
            if key in self.said:
                self._used.add(key)
                return self.said[key]
        return None

    def _by_outputs(self, index: int, name: str, node: Node, found: list[Pasted]) -> Pasted:
        assert self.old is not None
        layer, nearest = self.old.get_submodule(name), float("inf")
        for each in found:
            apart = oldcode.apart(layer, each)
            if apart <= oldcode.ROUNDING:
                self.apart = max(self.apart, apart)
                return replace(each, assumed=())
            nearest = min(nearest, apart)
        names = " or ".join(dict.fromkeys(each.spec.name for each in found))
        raise UserError(
            f"row {index} is a {node.path}, which stores what {names} stores and computes something else: outputs are "
            f"{nearest:.2g} of the largest apart",
            "keep the old code for this file; a copy that differs from its paper cannot be taken over",
        )

    def _by_what_is_stored(self, index: int, node: Node, found: list[Pasted]) -> Pasted | None:
        certain = without_doubt(found)
        if len(certain) > 1:
            names = " or ".join(str(each.spec) for each in certain)
            raise UserError(
                f"row {index} is a {node.path}, which can be {names} by what it stores: {described(node)}",
                f"say which, as in --as {index}={certain[0].spec.name}",
            )
        if certain or not found:
            return certain[0] if certain else None
        likely = min(found, key=lambda each: len(each.against))
        name, instead = likely.spec.name, "let its code be run and outputs compared: --trust"
        if likely.against:
            raise UserError(
                f"row {index} is a {node.path} with the tensors of {name}, but {'; '.join(likely.against[:3])}",
                f"what differs from its paper cannot be taken over; if it computes the same, {instead}",
            )
        raise UserError(
            f"row {index} is a {node.path}, which may be {name}: {likely.weak}",
            f"if it is, say so: --as {index}={name}; or {instead}",
        )


def described(node: Node) -> str:
    """Tensors and plain values of a module, in at most a few lines."""
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in node.tensors().items()]
    plain = [f"{key}={value!r}" for key, value in node.state.items() if isinstance(value, int | float | str)]
    more = f" and {len(shown) - 8} more tensors" if len(shown) > 8 else ""
    return (", ".join(shown[:8]) + more or "no tensors") + "".join(f", {text[:80]}" for text in plain[:12])
