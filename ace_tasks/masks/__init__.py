"""Masks: what of a picture is repainted. Loads no torch.

masks          from a file, a shape, transparency or the content → (H, W) uint8; steps and checks
hints          what looks like a mistake about a mask
cutout         the product by GrabCut or its plain ground
person         the person in a picture: outline, landmarks, face
garment        which part of a person a new garment may cover
person_colours where hair and hands end, told by their colour
"""
