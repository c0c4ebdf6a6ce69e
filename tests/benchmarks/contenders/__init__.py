"""Ways to edit one catalog: this system, and what a user might write in its place.

    python -m tests.benchmarks.contenders script workload.json

Each module has `run(workload)`, and is run in a process of its own, so that time and memory are its
own. All of them use the same model object, on as many threads, and tell the same journal.
"""
