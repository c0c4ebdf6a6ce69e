"""What a person sees in Prefect's UI.

forms      a flow and its steps, as Prefect shows them
artifacts  one artifact of a run: created once, then updated
live       progress, shards and failures while a run works
tables     tables, and who listens in a terminal
summary    what a person reads once a run has ended
sheet      the contact sheet, page by page
watch      a training's progress and curves
events     what a run tells automations
log        what `ace_tasks` says, in the run's log
names      names in the list of runs
"""
