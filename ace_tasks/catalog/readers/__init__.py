"""Files of rows: JSONL, CSV, TSV and Parquet, read row by row.

header         the columns that a table needs, and errors about them
encodings      text in other encodings, read as UTF-8
packed         files with or without gzip
cell_text      where the text of a cell is written in its file
row            Row, Reject, and how large a row may be
lines          the numbered lines of a file, and the ledger that accounts for each
jsonl          one JSON object a line
record         a row of CSV or TSV between its lines and its cells
delimited      CSV and TSV, and rows that a stray quote would swallow
parquet_pages  the unpacked sizes of a Parquet file's pages
parquet        rows of Parquet, a few at a time
splice         copy a text with some parts replaced, and every other byte as it is
"""
