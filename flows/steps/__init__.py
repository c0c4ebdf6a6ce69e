"""What a flow over a catalog does, step by step.

open_run   check everything, then plan
preflight  what the run will do and take
canary     a few pictures first, and a person's decision
trial      what a run notes of those
pool       the replicas of a run
edit       shards as task runs, fed to one pool
run_results  one result for every row
finish     results, contact sheet, summary
execute    from a plan to a finished run
signing    the key that signs pictures
train      the steps of a training
evaluate   the steps of an evaluation
forgotten_artifacts  those that quote what is forgotten
"""
