"""The product's part of Prefect's UI: forms, artifacts, events, logs and names.

forms      flows and steps, as Prefect shows them
artifacts  one artifact of a run: created once, then updated
live       progress, shards and failures while a run works
tables     tables, and the listener of a terminal
summary    the summary of a finished run
sheet      the contact sheet, page by page
run_form   the form of a deployment, and its address
watch      a training's progress and curves
events     events for automations
log        log lines of `ace_tasks`, in the run's log
names      names in the list of runs
"""
