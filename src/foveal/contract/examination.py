"""Try the whole contract on one attention, rule by rule."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..surgery import Spec, read
from . import behaviour, costs, files
from .findings import WIDTH, Broken, Finding, State, Subject

RULES = (*behaviour.RULES, *files.RULES, *costs.RULES)


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        spec: of the attention.
        takes: how its constructor takes its width, and the like.
        findings: one for each rule.
    """

    spec: str
    takes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def keeps(self) -> bool:
        """Whether no rule fails."""
        return not any(finding.state is State.FAILS for finding in self.findings)


def check(spec: str | Spec | type[nn.Module], width: int = WIDTH) -> Examined:
    """Try an attention on the contract that foveal's own keep. It takes about half a minute, and runs the class.

    Args:
        spec: such as "my_attention.py:BiFormer", "timm:eca", or a class.
        width: channels at which most rules are tried.

    Raises:
        UserError: it cannot be found, built, or run on a map at all.
    """
    asked = replace(read(spec, portable=False), places=())
    subject = Subject(asked, width)
    subject.build()
    return Examined(str(asked), subject.made.card.constraints, tuple(findings(subject)))


def findings(subject: Subject) -> Iterator[Finding]:
    """What each rule finds, in turn."""
    for rule in RULES:
        with torch.random.fork_rng(devices=[]):
            try:
                yield rule(subject)
            except Broken as error:
                yield Finding(rule.__name__, State.FAILS, f"its forward raises {error}", "it cannot be used so")
