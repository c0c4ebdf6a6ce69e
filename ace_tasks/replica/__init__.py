"""One item on one replica: fetched, made, published. Knows nothing of Ray.

replica       the life of an item
fetch         its sources: from the store to pictures
edit          its pixels, before the model and after it
painter       from settings and pictures to the best picture, by the models of one process
batching      the one thread that owns the model, and what it takes along
ladder        what is tried when memory runs out
candidates    the best of several pictures of an item
picture_file  from a finished picture to its file
recording     from a finished picture and its file to its record
publisher     into the store: published, or held for a person
progress      where an item stands
inspect       a look at pictures and masks before any GPU
host_memory   how much memory a process may use
runtime_info  code, packages and device, as records name them
logs          a replica's log

Without a store:
editor        edits one picture after another, in Python
verify        the command that proves a set of weights
"""
