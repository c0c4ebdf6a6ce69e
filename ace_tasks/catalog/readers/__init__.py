"""Files of rows: JSONL, CSV, TSV and Parquet, read row by row.

header         the columns that a table needs
encodings      text in other encodings, read as UTF-8
packed         files that may be packed
row            Row, Reject, and how large a row may be
lines          the lines of a file, each with its number, and the account of them
jsonl          an object a line
delimited      CSV and TSV: quoted cells, and rows that a stray quote would swallow
parquet_pages  the sizes that a Parquet file's pages unpack to
parquet        rows of Parquet, a few at a time
"""
