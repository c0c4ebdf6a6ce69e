"""People in photographs, and which part of one a new garment may cover.

| module | what |
|---|---|
| `person.py` | the person in a picture: outline, landmarks, face |
| `garment.py` | the mask of a top, a bottom or a dress on that person |
| `colours.py` | where hair and hands end, told by their colour |

The networks are in `ace_tasks.model.people`.
"""
