"""The worth of the paper's choices, on the procedural world: the same small model trained several
ways, several times each. `python -m tests.benchmarks.ablation` makes all of it again.
"""
