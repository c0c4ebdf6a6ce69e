"""Prefect flows over catalogs, and the commands of the terminal."""

from ace_tasks.replica.logs import make_harmless

make_harmless()
