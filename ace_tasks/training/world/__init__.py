"""The procedural world: scenes, tasks over them, and each task's exact answer.

scene             scenes, and how they look
shapes            silhouettes
backdrops         backgrounds
draws             random scenes, and the ones held back from training
world_tasks       tasks over scenes
grammar           prompts
selections        masks as users make them
control_pictures  control pictures
"""
