"""Every benchmark of the engine, one after another. `make bench` runs it, in some fifteen minutes.

    python -m tests.benchmarks              tables for RESULTS.md
    python -m tests.benchmarks --scale 0.2  a look

The load of the machine is printed beside each: figures of a busy one say little.
"""

from __future__ import annotations

import argparse
import time

from tests.benchmarks import busy, peers, steady

_STEADY_ITEMS = 5000  # alone it takes 50,000, for an hour or so


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of items")
    scale = parser.parse_args().scale
    started = time.monotonic()
    for title, run, arguments in (
        ("Busy share of a replica", busy.main, ["--scale", str(scale)]),
        ("Beside its peers", peers.main, ["--scale", str(scale)]),
        ("Memory over a long run", steady.main, ["--items", str(round(_STEADY_ITEMS * scale))]),
    ):
        print(f"## {title}\n", flush=True)
        run(arguments)
        print(f"\n({(time.monotonic() - started) / 60:.1f} minutes so far)\n", flush=True)


if __name__ == "__main__":
    main()
