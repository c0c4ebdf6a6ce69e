"""Pictures: NumPy arrays in, NumPy arrays out. No torch.

codec            bytes ↔ pixels; the one module that decodes and encodes pictures
containers       the parts of a file, counted before a codec walks over them
side_parts       a file without the parts beside its pixels that cannot be read
rewrap/          coded pixels in a container that is written anew
source_metadata  what a source says of its owner and origin
colour           ICC profiles: sRGB for the model, its own profile for the picture
colour_space     how a file says its colours, as one profile
icc              profiles made from primaries and a curve
hdr              PQ and HLG shown in sRGB
levels           the colours that a mask is drawn in
canvas_size      how large things are on the model's canvas
paste            the window that the model sees, and the way back into the picture
controls         what a model is shown in a picture's place: edges, grey, mosaic
matting          from a small map of what stands out to the product's own outline
ground           a product on another ground: its edge's colours, its shadow
preset           a finished picture in a marketplace's frame
scores           automatic scores of a finished picture
"""
