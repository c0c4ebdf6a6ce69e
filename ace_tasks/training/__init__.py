"""Train ACE++ models, with the samples and the loss of upstream's training code.

recipe       the settings of a training, as data
rows         training data from a catalog
world/       training data from the procedural world
sample       one training sample
latents      the training set as latents
texts        the stored outputs of frozen text encoders
vae          the small VAE of `mini`
small        the model to train: the transformer, and text encoders
start        the variant that a training starts from
lora         a LoRA, as upstream trains and publishes it
objective    the loss of a step
loop         the optimisation loop
stages       a training, stage by stage
distributed  the stages on Ray
keeping      a training's files, in the work folder and on S3
export       write the trained model as a variant's folder
preview      a model's answer to an example
curve        draw the curves of a training
"""
