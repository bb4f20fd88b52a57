"""The stock `yolo` command with attentions registered and our trainers."""

import sys

from ...errors import UserError
from .arguments import grammar, no_argument, read
from .models import RTDETR, YOLO, load, ultralytics


def command(arguments: list[str]) -> None:
    """The stock `yolo` command with attentions registered and our trainers, and `tune`, which stock has in Python only.

    Raises:
        UserError: the host does not know an argument.
    """
    ultralytics.YOLO, ultralytics.RTDETR = YOLO, RTDETR
    try:
        if "tune" in arguments:
            _tune([argument for argument in arguments if argument != "tune"])
        else:
            sys.argv[:] = ["yolo", *arguments]  # in place: the host keeps a reference to this list
            grammar.entrypoint()
    except SyntaxError as error:
        said = str(error).strip().partition("\n\n")[0]  # the rest is the host's manual
        raise UserError(
            said, "an attention is no argument here: put it in with foveal add and train that file"
        ) from None
    except FileNotFoundError as error:
        raise UserError(str(error).strip(), "check the path") from None


def _tune(arguments: list[str]) -> None:
    given, words = read(arguments)
    given |= dict.fromkeys({"use_ray"} & {*words}, True)
    if others := [word for word in words if word not in {"use_ray", *grammar.TASKS}]:
        raise no_argument(others[0])
    own = {key: given.pop(key) for key in ("iterations", "use_ray") if key in given}
    grammar.check_dict_alignment(grammar.DEFAULT_CFG_DICT, given)
    if "model" not in given:
        raise UserError("tune needs a model", "add for example model=yolo11n-ema.pt")
    load(given.pop("model"), trust=True).tune(**own, **given)
