"""The plan of a run: its items, their order, and what is left to do.

identify         asks the store for the identity of each source
source_listings  identities from listings, where a listing says enough
spool            rows on disk until their order and their doubles are known
plan_file        the plan on disk: writes, reads and changes it, cuts it into shards
outline          a plan's rows without their items, in little memory
item_ids         sets of item ids by the million, at 32 bytes each
resume           what earlier runs did with the items of a plan
planned          the plan that a run works from, and what is left to do
price            what a run will cost, and its budget
"""
