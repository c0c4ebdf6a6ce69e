"""The results of a run, and the operations on a finished run.

results       one result for every row, the summary and the counts
loss          what a fast run lost, measured on some of its pictures
report/       the contact sheet
history       the runs under an output, and how each ended
review        pictures that wait for a person: promote or discard them
decisions     a person's decisions on them, as lists of rows or as a file
audit         check a run again: its results, its records, its pictures
proof         compare a record with its plan, its picture and itself
reproduce     make a recorded picture again and compare the two
published     find the picture of every finished item
row_pictures  find the current picture of each row of a run
feed_out      write the feed of a restyle anew, with the links of the edited pictures
feed_note     the feed that a restyle read
feed_rows     the rows of a run by the pictures of a feed
public_links  where the web finds a picture
new_files     new files of a folder or prefix, never over others
take_out      copy the picture of each row out under the row's name
sweep         find our pictures that no record names
forget        delete a source or a run, and everything that mentions it
traces        read the items and sources that records, failures and plans name
closure       find the items that are forgotten with a source or run, and their names
mentions      find a forgotten name in a text, a page or a list
redaction     remove forgotten items from a file of a run
"""
