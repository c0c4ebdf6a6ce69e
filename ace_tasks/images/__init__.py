"""Pictures: NumPy arrays in, NumPy arrays out. No torch.

codec            bytes ↔ pixels; the only module that decodes and encodes pictures
containers       limits on the parts of a file, checked before a codec reads it
side_parts       a copy of a file without the unreadable parts beside its pixels
rewrap/          the coded pixels of a file in a newly written container
source_metadata  what a source file states about its owner and origin
colour           ICC conversion between a picture's own profile and the model's sRGB
colour_space     the colour space that a file states, as one ICC profile
icc              ICC profiles made from primaries and a curve
hdr              PQ and HLG pictures converted to sRGB
levels           the colours that a mask file is drawn in
canvas_size      sizes of the target and its references on the model's canvas
paste            the window that the model sees, and pasting its result back
controls         control maps shown to the model: edges, grey, mosaic
matting          a product's own outline from a small saliency map
ground           a product on another background: its edge's colours, its shadow
closeness        the distance of two pictures
preset           a finished picture fitted into a marketplace's frame
scores           automatic scores of a finished picture
"""
