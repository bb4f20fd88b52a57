"""Writes the page of all attentions from their cards: python docs/attentions.py > docs/attentions.md."""

import functools

from foveal.attention import ATTENTIONS, PLAIN, costs, forms, mathematics

costs = functools.cache(costs)  # the first size stands in the table and in each section

HEAD = """# The attentions

Written from the cards by `make docs`. Parameters and multiply-accumulates (MACs) are counted at the defaults; FLOPs, as
`foveal list` gives them, are twice the MACs. Element-wise work, norms and pooling are not counted, as in the papers,
although most of these modules spend their time there.

In every section: the mathematics as implemented, when it is a bad idea, what it asks for, where code and paper differ,
what copies in circulation get wrong, and what it costs. `reference` is the paper box by box; a `fast` form, where there
is one, is the same function. Both give the numbers of the authors' code, with every gradient, to 1e-12 in double
precision ([how](../tests/golden/README.md)).

| name | parameters at 256 | MMACs at 256 x 40 x 40 | what it weighs by | place | licence of the source |
|---|---|---|---|---|---|"""


MISSING = """
## What is not here

- A2: the host's own, inside its block A2C2f.
- AKConv, LDConv: convolutions whose samples move; they weigh nothing.
- iEMA: no definition of it was found.
- BRA (BiFormer): its choice of the best regions, a top-k and a gather, has no form that exports to all formats here.
- DAT: neither has its deformable sampling, between pixels at places that it computes."""


def main() -> None:
    """Print the page."""
    print(HEAD)
    for name, cls in ATTENTIONS.items():
        card, cost = cls.card, costs(cls)
        counts = f"{cost['parameters']:,} | {cost['flops_reference'] / 2e6:,.3f}"
        print(f"| [`{name}`](#{name}) | {counts} | {card.kind} | `{card.paper_place}` | {card.licence} |")
    for name, cls in ATTENTIONS.items():
        print("\n".join(section(name, cls)))
    print(MISSING)


def section(name: str, cls: type) -> list[str]:
    """Lines about one attention."""
    card = cls.card
    lines = ["", f"## {name}", "", f"**{card.title}** ({card.year}, [paper]({card.paper})), `foveal.{cls.__name__}`"]
    lines += ["", "```text", mathematics(name), "```", ""]
    lines += [f"- It weighs by: {card.kind}. Place: `{card.paper_place}`.", f"- Not a good idea {card.avoid}."]
    for title, sentences in (
        ("Asks for", card.constraints),
        ("Code and paper", card.differs),
        ("Copies", card.copies),
        ("In a row of its own", map(str, card.rows)),
        ("Note", card.notes),
    ):
        lines += [f"- {title}: {sentence}." for sentence in sentences]
    plain = [form for form in PLAIN if form in forms(cls)]
    lines += ["", "| input | parameters | " + " | ".join(f"MMACs, {form}" for form in plain) + " |"]
    lines += ["|---|---|" + "---|" * len(plain)]
    for channels, size in ((256, 40), (512, 20)):
        cost = costs(cls, channels, size)
        counts = " | ".join(f"{cost[f'flops_{form}'] / 2e6:,.3f}" for form in plain)
        lines.append(f"| {channels} x {size} x {size} | {cost['parameters']:,} | {counts} |")
    return lines


if __name__ == "__main__":
    main()
