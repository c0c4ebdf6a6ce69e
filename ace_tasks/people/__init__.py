"""People in photographs, and which part of one a new garment may cover.

| module | what |
|---|---|
| `networks.py` | MediaPipe's networks, which ship with this project |
| `person.py` | the person in a picture: outline, landmarks, face |
| `garment.py` | the mask of a top, a bottom or a dress on that person |
"""
