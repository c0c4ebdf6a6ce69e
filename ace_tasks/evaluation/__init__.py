"""How good a model is, on the procedural world.

scoring       an output against its exact answer
metrics       single measures
baselines     what needs no model
measure       chunk by chunk, kept as it goes
report        the table
answer_sheet  pictures of answers
place         where an evaluation is kept
"""
