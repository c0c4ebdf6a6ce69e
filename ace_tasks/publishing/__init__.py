"""From an item's finished picture to objects in the store.

publisher.py   its file, published or held for a person
recording.py   what its file and its record say: marked, sealed, signed
"""

from ace_tasks.publishing.publisher import (
    File,
    Publisher,
    encode,
    paste_record,
    reasons_to_hold,
    rewrapped,
)
from ace_tasks.publishing.recording import Chosen, Recorder, Work

__all__ = [
    "Chosen",
    "File",
    "Publisher",
    "Recorder",
    "Work",
    "encode",
    "paste_record",
    "reasons_to_hold",
    "rewrapped",
]
