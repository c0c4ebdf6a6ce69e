"""What is known of a run, and what can be done with it.

results     one result for every row, summary and counts
report/     the contact sheet
history     the runs under an output, and how each ended
review      pictures that wait for a person: promote, discard
audit       a run re-read: its account, its records, its pictures
proof       what a record must say, by its plan, its picture and itself
reproduce   a recorded picture made again, and compared
published   where the picture of every finished item is
take_out    the picture of each row, copied out under the row's name
sweep       pictures of ours that no record names
forget      delete a source or a run, and all that tells of it
traces      what records, failures and plans tell of items and their sources
closure     which items are forgotten with a source or run, and their names
mentions    whether a text, a page or a list tells of a name
redaction   a file of a run without what it tells of forgotten items
"""
