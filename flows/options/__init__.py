"""The parameters of flows and commands, described once for Prefect's form and the terminal.

A flow takes a few parameters and some groups of options. A group is a frozen pydantic model: the
form draws it as a titled box, the terminal as titled flags. Each field has its text, limits and
default here and nowhere else. No field is a union, a dict or a list, because the form would show a
JSON editor for it.

groups     the base of the groups, and the parameters of a function that takes them
places     parameters outside a group: catalog, output, variant, run …
pixels     the edit, and the finished pictures
masking    the part of a picture that is repainted
feed       reading a source of pictures
review     pictures that a person checks before they are published
run        limits of a run, work that it repeats, and its replicas
models     training and measuring a variant
"""
