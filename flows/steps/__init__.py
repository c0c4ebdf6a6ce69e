"""The steps of the flows.

open_run   check everything, then plan
preflight  estimate what the run will do and take
canary     make a few pictures first, and wait for a person's decision
trial      the stored state of a canary
review     show the pictures that a run holds back, and act on the decision
pool       the replicas of a run
edit       shards as task runs, fed to one pool
loss_sample  the items of a fast run that are also made exact
run_results  one result for every row
contact_sheet  the contact sheet, while a run works and at its end
finish     results, contact sheet, summary
execute    the steps from a plan to a finished run
signing    the key that signs pictures
train      the steps of a training
evaluate   the steps of an evaluation
forgotten_artifacts  artifacts that quote forgotten rows or sources
"""
