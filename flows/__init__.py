"""Prefect flows over catalogs, and the terminal's commands."""

from ace_tasks.replica.logs import make_harmless

make_harmless()
