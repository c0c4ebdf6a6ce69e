"""A measurement of one edit on one GPU, in one command.

    python -m tests.benchmarks.gpu --minutes 6 --out out/gpu                       on a GPU
    python -m tests.benchmarks.gpu --geometry tiny --device cpu --out out/gpu      a rehearsal

__main__    the command: rungs by importance until the time is used up
rungs       the ways of working that are measured
random_parts  models with random weights, drawn where they work
flops       what a step costs, by its geometry
results     the file that a run leaves, and its table

It needs torch, diffusers, transformers, accelerate, peft, OpenCV, Pillow, pydantic, boto3 and ftfy;
neither Ray nor Prefect, and nothing from the network.
"""
