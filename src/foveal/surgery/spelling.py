"""What the numbers in an attention's row mean, as in `[-1, 1, CBAM, [1024, 7]]`.

Copies of an attention take its arguments by position, each copy in an order of its own, and most YAMLs write the width
before scaling. A row is read as one of the forms on the attention's card if one fits, or if all that fit are the same
module. Anything else is refused: a number that is taken for another argument trains another network in silence.
"""

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..attention import Form, find
from ..errors import UserError, shown
from .spec import Spec

_WIDTHS_BEFORE = 2  # at most: copies that may change the width take the one that comes in and the one that goes out


def read(spec: Spec, numbers: Sequence[object], width: int, scaled: Callable[[int], int]) -> Spec:
    """The attention of a row with its numbers as arguments.

    Args:
        spec: the attention and what its row says by name.
        numbers: what the row says by position.
        width: channels of the row that it reads.
        scaled: what the model's scale makes of a width, as `model_yaml.scaled` gives it.

    Raises:
        UserError: the numbers fit no form of this attention, or forms that are different modules. The message has no
            subject: its caller knows the row.
    """
    numbers = [_value(number) for number in numbers]
    takes = list(inspect.signature(find(spec.name)).parameters.values())[1:]
    defaults = {parameter.name: parameter.default for parameter in takes}
    for count in range(min(_WIDTHS_BEFORE, len(numbers)), -1, -1):  # a number that can be the width is the width
        if all(_is_width(number, width, scaled) for number in numbers[:count]):
            found = list(_readings(find(spec.name).card.rows, numbers[count:], bool(count), defaults))
            distinct = {str({**defaults, **arguments}): arguments for arguments in found}
            if len(distinct) == 1:
                return _with(spec, *distinct.values())
            if distinct:
                break
    example = next((f"{{{name}: {default}}}" for name, default in defaults.items() if default is not None), "")
    hint = f"write [] or, with arguments by their names, [{example}]" if example else "write []"
    if distinct:
        said = " or ".join(str(_with(spec, arguments)) for arguments in distinct.values())
        raise UserError(f"says {shown(numbers)}, which can mean {said}", hint)
    if type(numbers[0]) is int and numbers[0] % 8 == 0 and not _is_width(numbers[0], width, scaled):
        hint = "write [] to have the width filled in at every scale"
        raise UserError(f"says {numbers[0]} channels, but the row it reads has {width}", hint)
    raise UserError(f"says {shown(numbers)}, which is no form in which {spec.name} is written", hint)


def _is_width(number: object, width: int, scaled: Callable[[int], int]) -> bool:
    return number is None or (type(number) is int and width in (number, scaled(number)))


def _value(number: object) -> object:
    """YAML takes 1e-4 for a text."""
    try:
        return ast.literal_eval(number) if isinstance(number, str) else number
    except (SyntaxError, ValueError):
        return number


def _readings(
    forms: Sequence[Form], numbers: Sequence[object], after_width: bool, takes: dict[str, object]
) -> Iterator[dict[str, object]]:
    """Arguments that the numbers behind the widths can be."""
    if not numbers:
        yield {}
        return
    for form in forms:
        fits = len(form.numbers) == len(numbers) and not (form.alone and after_width)
        if fits and all(number in slot.usual for number, slot in zip(numbers, form.numbers, strict=True)):
            named = zip(form.numbers, numbers, strict=True)
            yield {**form.implies, **{slot.name: number for slot, number in named if slot.name in takes}}


def _with(spec: Spec, arguments: dict[str, object]) -> Spec:
    """The spec with arguments that its row gives by position.

    Raises:
        UserError: the row gives one of them by name, too.
    """
    if twice := sorted(arguments.keys() & spec.arguments.keys()):
        raise UserError(f"gives {twice[0]} by position and by name", f"write [{{{twice[0]}: {arguments[twice[0]]}}}]")
    return replace(spec, arguments={**arguments, **spec.arguments})
