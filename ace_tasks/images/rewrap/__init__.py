"""The coded pixels of a file in a container that is written anew, with other metadata.

Where nothing is painted, a picture must not lose anything to being encoded again. Only what decides
its pixels is copied; whatever else the file held is left behind.

formats                 a file of any format
jpeg, png, webp, avif   one format each
avif_stated             what an AVIF file states of its pictures
exif                    the blocks of EXIF
parts                   what stands beside the pixels
"""
