"""Run the terminal's commands by `python -m flows.cli`."""

from flows.cli import main

main()
