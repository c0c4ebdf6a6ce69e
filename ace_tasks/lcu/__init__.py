"""LCU++: pictures, mask and references → the model's input canvas, and the target back out.

Pure functions on tensors. The paper's Long-context Condition Unit stacks picture and mask in
channels (the noise joins them in `model`), and references stand left of the target on one canvas:

    canvas = [ reference … | target ]      mask = [ 0 … | m ]

Two policies decide sizes and places. `catalog` is exact: the target is padded to whole tokens,
cut out again at its true seam, and comes back in its own size. `reference` matches upstream to the
pixel, quirks included.

policies  the choice of the policy
canvas    inputs, canvas and geometry that both policies share
exact     policy `catalog`
upstream  policy `reference`
"""
