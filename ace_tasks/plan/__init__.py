"""Which items a run has, in what order, and what is left to do.

identify   who a row's sources are, asked of the store
plan_file  the plan on disk: written, read, counted, cut into shards
item_ids   item ids by the million, in 32 bytes each
resume     what earlier runs did of a plan
planned    a plan that a run works by, and what is finished of it
price      what a run will take, and the most that it may take
"""
