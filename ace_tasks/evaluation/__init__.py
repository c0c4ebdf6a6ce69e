"""Measure how good a model is, on the procedural world.

scoring       compare an output with its exact answer
metrics       single measures
baselines     contenders that need no model
measure       measure and store chunk by chunk
report        the table
answer_sheet  pictures of answers
place         the prefix or folder of an evaluation
"""
