"""Prefect flows over catalogs, and the terminal's commands."""

from ace_tasks.logs import make_harmless

make_harmless()
