"""What a person sees in Prefect's UI.

live     progress, shards and failures while a run works
tables   tables and links
summary  what a person reads once a run has ended
sheet    the contact sheet, page by page
events   what a run tells automations
log      what `ace_tasks` says, in the run's log
names    names in the list of runs
watch    a training's progress and curves
"""
