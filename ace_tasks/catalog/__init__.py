"""Where rows come from: files and other sources, checked into specs.

readers/    rows of JSONL, CSV, TSV and Parquet
sources/    pictures of a prefix, a table or a product feed
files       a catalog file → rows → specs, or rejects that say what is wrong
restyle     one instruction for every picture
try_on      garments on people
pairs       who wears what
templates   prompts with names in braces
generated   the catalog that a run makes itself
overrides   what a person changes in every row of a run
"""
