"""`python -m foveal` is the command `foveal`."""

from .cli import main

main()
