"""What `foveal list` and `foveal show` know without counting is what they would count."""

import json

import pytest

from foveal import ATTENTIONS, attention
from foveal.cli import cards
from foveal.kernels.ema import cpu, library
from helpers import in_fresh_process


def test_the_table_is_what_the_classes_are():
    assert cards.TABLE.read_text(encoding="utf-8") == cards.table(), "make docs writes it anew"


@pytest.mark.parametrize("built", [True, False])
def test_a_kernel_is_looked_for_on_this_machine(built, monkeypatch):
    if not built:
        monkeypatch.setattr(library, "load", lambda: None)
        monkeypatch.setattr(cpu, "_LIBRARY", None)
    with_kernel = [cls for cls in ATTENTIONS.values() if "kernel" in attention.forms(cls)]
    assert with_kernel
    for cls in with_kernel:
        assert cards._entry(cls.card.name) == json.loads(json.dumps(cards.counted(cls)))


def test_every_name_leads_to_the_same_attention_as_elsewhere():
    names = [given for name in attention._NAMES for given in (name, name.upper(), f"foveal.{name}")]
    assert [cards._entry(name)["name"] for name in names] == [attention.find(name).card.name for name in names]


def test_a_class_of_somebody_else_is_counted(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\nclass Gate(nn.Module):\n"
        '    """Weighs."""\n\n'
        "    def __init__(self, dim):\n        super().__init__()\n        self.conv = nn.Conv2d(dim, dim, 1)\n\n"
        "    def forward(self, x):\n        return x * self.conv(x).sigmoid()\n"
    )
    cards.show(f"{file}:Gate")
    shown = capsys.readouterr().out
    assert shown.startswith("Weighs.\n")
    assert f"parameters   {256 * 256 + 256:,} at 256 channels" in shown
    assert f"reference    {2 * 256 * 256 * 1600 / 1e6:.1f} MFLOPs" in shown


def test_known_attentions_are_shown_without_torch(tmp_path):
    code = """
import contextlib, sys
from foveal.cli import main
for arguments in (["list"], ["show", "ema"], ["show", "--json", "LSKblock"]):
    sys.argv = ["foveal", *arguments]
    with contextlib.suppress(SystemExit):
        main()
print([name for name in ("torch", "numpy") if name in sys.modules])
"""
    printed = in_fresh_process(code, tmp_path).splitlines()
    assert printed[0].startswith("name")
    assert printed[-1] == "[]"
