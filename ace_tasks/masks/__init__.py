"""Masks: which part of a picture is repainted. Loads no torch.

masks          from a file, a shape, transparency or content to (H, W) uint8; steps and checks
hints          signs that a mask may be a mistake
cutout         the product, by GrabCut or by its plain background
person         the person in a picture: outline, landmarks, face
garment        the part of a person that a new garment may cover
person_colours the limits of hair and hands, found by their colours
"""
