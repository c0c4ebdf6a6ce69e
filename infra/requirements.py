"""Print the dependencies in pyproject.toml, one per line, with those of the named extras.

An image installs them before our code is copied, so it keeps that layer when our code changes.

    python infra/requirements.py metrics train
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in sys.argv[1:]:
        wanted += project["optional-dependencies"][extra]
    print(*wanted, sep="\n")


if __name__ == "__main__":
    main()
