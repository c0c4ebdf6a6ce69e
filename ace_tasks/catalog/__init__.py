"""Rows from files and other sources, checked into specs.

readers/    rows of JSONL, CSV, TSV and Parquet
sources/    pictures of a prefix, a table or a product feed
files       a catalog file → rows → specs, or rejects with a reason
restyle     one instruction for every picture
try_on      garments on people
pairs       the pairs of a person and a garment
templates   prompts with names in braces
generated   the catalog that a run generates
overrides   prompt and seed applied to every row of a run
"""
