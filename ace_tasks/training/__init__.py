"""Training of ACE++ models: samples and loss as upstream has them.

recipe       a training, as data
rows         training data from a catalog
world/       training data from the procedural world
sample       one training sample and its loss
latents      the training set as latents
texts        what text encoders that do not learn say of each prompt
vae          the small VAE of `mini`
small        what learns: the transformer, and text encoders
start        what a training starts from
lora         a LoRA, as upstream trains and publishes it
objective    what a step descends
loop         the optimisation loop
stages       a training, stage by stage
distributed  the stages on Ray
keeping      a training's files, here and on S3
export       what was trained, as a variant's folder
preview      what a model makes of an example
curve        curves, for looking at
"""
