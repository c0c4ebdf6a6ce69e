"""The coded pixels of a file in a newly written container, with other metadata.

Where nothing is painted, a picture must not lose quality by being encoded again. Only the parts
that decide its pixels are copied. Everything else in the file is left behind.

formats                 a file of any format
jpeg, png, webp, avif   one format each
avif_stated             what an AVIF header states about its pictures
exif                    whether a block of EXIF can be read
parts                   the parts beside the pixels, and the error
"""
