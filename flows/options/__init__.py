"""What flows and commands take, described once for Prefect's form and for the terminal.

A flow takes a few parameters and some groups of options. A group is a frozen pydantic model: the
form draws it as a titled box, the terminal as titled flags. Each field has its text, limits and
default here and nowhere else. No field is a union, a dict or a list: the form would show a JSON
editor.

groups     what a group of options is, and how the parameters of a function are read
places     parameters that stand alone: catalog, output, variant, run …
pixels     how pictures are made
masking    which part of a picture is repainted
feed       how a source of pictures is read
review     what a person sees before it is published
run        how a run works: what stops it, what it repeats, on how many replicas
models     how a variant is trained, and how one is measured
"""
