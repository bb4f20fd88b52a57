"""Writes the table that `foveal list` and `foveal show` read, from the classes: python docs/cards.py."""

from foveal.cli import cards

if __name__ == "__main__":
    cards.TABLE.write_text(cards.table(), encoding="utf-8")
