"""`python -m iepile_builder`: the command `iepile`."""

from iepile_builder.commands.cli import main


main()
