"""One item on one replica: fetched, edited, published. Nothing here uses Ray.

replica       the life of an item
fetch         an item's sources, read and decoded
edit          an item's pixels, before the model and after it
painter       the best picture of an item, by the models of one process
batching      the one thread that owns the model, and its batches
ladder        smaller steps after memory has run out
candidates    the best of several pictures of an item
comparison    what a fast picture lost, beside the exact one
picture_file  the file of a finished picture
recording     the record of a finished picture
publisher     writes to the store: published, or held for a person
progress      an item's phase and the seconds of each
inspect       a look at pictures and masks before any GPU works
host_memory   how much memory a process may use
runtime_info  code, packages and device, as records name them
logs          a replica's log

Modules without a store:
editor        edits one picture after another, in Python
verify        the command that proves a set of weights
"""
