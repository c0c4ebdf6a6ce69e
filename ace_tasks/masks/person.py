"""The person in a picture: their outline, the landmarks of their pose, their face.

The pose network needs a square around the whole person. MediaPipe takes it from a detector that
OpenCV cannot load. Here the first square comes from the person mask, and each further one from the
landmarks found in the one before, as MediaPipe follows a person through a film.

Points are (x, y) in pixels of the picture and may lie outside it. Legend: H and W are the picture's
size, h and w a network's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ace_tasks.errors import BadMask
from ace_tasks.model import people
from ace_tasks.model.people import FACE_PX, POSE_PX, SELFIE_PX, Networks

LANDMARKS = 33  # of BlazePose: 0-10 face, 11-22 arms and hands, 23-32 legs and feet
NOSE, MOUTH = 0, (9, 10)
LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = 2, 5, 7, 8
SHOULDERS, ELBOWS, WRISTS = (11, 12), (13, 14), (15, 16)
PINKIES, INDEXES, THUMBS = (17, 18), (19, 20), (21, 22)
HIPS, KNEES, ANKLES, HEELS, TOES = (23, 24), (25, 26), (27, 28), (29, 30), (31, 32)
_ARMS = (*ELBOWS, *WRISTS)
_HIP_CENTRE, _TOP = 33, 34  # two points that define the person's square

_PERSON = 0.5  # MediaPipe's thresholds of mask, pose and landmark
_POSE = 0.5
_SEEN = 0.5
_MARGIN = 1.25  # MediaPipe's factor for the square
_ROUNDS = 4
_SETTLED = 0.03  # share of a square's side; one that moves less is not tried again
_ELBOW = 0.7  # least visibility of an elbow if no face is seen; a flower's was 0.6
_CERTAIN = 0.9  # least score of an accepted pose; real people have 0.96 to 1, a cat had 0.87
_FITTING = 0.7  # share of a lone person's mask; a pose that explains less is wrong
_LONG = 1.6  # ratio of sides; a longer picture is shown in parts
_EXPLAINED = 0.9  # share of the person mask; a pose that covers it needs no rival
_WITHIN = 0.8  # share of a pose's own mask that must be inside the person mask
_ARMS_COUNT = 0.3
_TILES = 4
_AT_EDGE = 0.98  # share of the height; a person who reaches it may go on below
_SMALLEST = 0.002  # share of the picture; a smaller part of the person mask is a speck
_ANOTHER = 0.2  # share of the person's area; a smaller part beside it is no second person

_ACCEPTED = "accepted: a photograph of one person, upright, whole or to the hips"
_NOBODY = f"no person was found; {_ACCEPTED}"


@dataclass(frozen=True, eq=False)
class Face:
    """A face, and how sure it is, in [0, 1]."""

    eyes: np.ndarray  # (2,): the middle between them
    mouth: np.ndarray  # (2,)
    ears: np.ndarray  # (2,): the middle between them
    score: float


@dataclass(frozen=True, eq=False)
class Person:
    """The largest person of a picture."""

    mask: np.ndarray  # (H, W) float32 in [0, 1]: how likely each pixel is a person's
    points: np.ndarray  # (33, 2) float32
    visibility: np.ndarray  # (33,) float32 in [0, 1]: in the picture and not hidden
    score: float  # how sure the pose is, and how much of the mask it explains, in [0, 1]
    face: Face | None  # None: turned away, or too small
    people: int  # lower bound of their number

    @property
    def size_px(self) -> tuple[int, int]:
        """Return (width, height) of the picture."""
        return self.mask.shape[1], self.mask.shape[0]

    def inside(self, landmark: int, slack: float = 0.0) -> bool:
        """Return whether a landmark is in the picture, or outside by at most a share of a side."""
        share = self.points[landmark] / self.size_px
        return bool((share >= -slack).all() and (share <= 1 + slack).all())

    def sees(self, landmark: int) -> bool:
        """Return whether a landmark is in the picture and not hidden."""
        return self.inside(landmark) and bool(self.visibility[landmark] >= _SEEN)


@dataclass(frozen=True)
class _Square:
    """A square of a picture that a network sees. `angle` is in radians, clockwise."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def matrix(self, side_px: int) -> np.ndarray:
        """Return the (2, 3) float64 matrix from the square's pixels to the picture's."""
        scale = self.side / side_px
        cos, sin = scale * np.cos(self.angle), scale * np.sin(self.angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        # Pixel centres: half a pixel of the square is half a pixel of the picture.
        middle = np.array([self.x, self.y]) - 0.5 - turn @ np.full(2, side_px / 2 - 0.5)
        return np.column_stack([turn, middle])

    def cut(self, picture: np.ndarray, side_px: int) -> np.ndarray:
        """Return the square as (side_px, side_px, 3); black outside the picture."""
        # Shrunk first: a large square would otherwise be sampled with holes.
        if self.side > 2 * side_px:
            scale = side_px / self.side
            height, width = picture.shape[:2]
            size = max(1, round(scale * width)), max(1, round(scale * height))
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            x, y = self.x * size[0] / width, self.y * size[1] / height
            return _Square(x, y, side_px, self.angle).cut(small, side_px)
        return cv2.warpAffine(
            picture,
            self.matrix(side_px),
            (side_px, side_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )

    def differs(self, other: _Square) -> bool:
        moved = np.hypot(self.x - other.x, self.y - other.y) + abs(self.side - other.side)
        return bool(moved > _SETTLED * self.side)


@dataclass(frozen=True, eq=False)
class _Pose:
    score: float
    points: np.ndarray  # (35, 2) float32: the landmarks, and two points for the next square
    visibility: np.ndarray  # (33,) float32
    square: _Square
    mask: np.ndarray  # (h, w) float32: this person's alone

    def next_square(self) -> _Square:
        centre, top = self.points[_HIP_CENTRE], self.points[_TOP]
        up = top - centre
        angle = float(np.arctan2(up[0], -up[1]))
        side = max(16.0, 2 * _MARGIN * float(np.hypot(*up)))
        return _Square(float(centre[0]), float(centre[1]), side, angle)


def find(rgb: np.ndarray) -> Person:
    """Find the largest person of a picture, (H, W, 3) uint8 in sRGB.

    Raises BadMask if there is none.
    """
    nets = people.load()
    mask = _person_mask(rgb, nets)
    parts = _parts(mask > _PERSON)
    found = _best_pose(rgb, mask, parts[0], nets) if parts else None
    if found is None:
        raise BadMask(_NOBODY)
    pose = found.pose
    face = _face(rgb, pose, nets)
    if face is None and pose.visibility[list(ELBOWS)].max() < _ELBOW:
        raise BadMask(_NOBODY)
    others = _others(rgb, mask, found.own, nets)
    if not others and found.overlap < _FITTING:
        raise BadMask(f"no pose fits the visible person; {_ACCEPTED}")
    mask = np.maximum(mask, found.own)
    if others:
        mask = np.where(_near(found.own), mask, 0).astype(np.float32)
    return Person(
        mask=mask,
        points=pose.points[:LANDMARKS],
        visibility=pose.visibility,
        score=pose.score if others else min(pose.score, found.overlap),
        face=face,
        people=1 + others,
    )


# ---------------------------------------------------------------- outline


def _person_mask(rgb: np.ndarray, nets: Networks) -> np.ndarray:
    """Return the mask of all people in the picture, (H, W) float32 in [0, 1].

    The network sees a square. A long picture is not squeezed into it, but shown in at most seven
    parts that overlap by half.
    """
    height, width = rgb.shape[:2]
    short, long = sorted((height, width))
    if long <= _LONG * short:
        return _outline(rgb, nets)
    mask = np.zeros((height, width), np.float32)
    side = max(short, -(-long // 4))
    for start in np.linspace(0, long - side, 1 + -(-2 * (long - side) // side)).round():
        cut = slice(int(start), int(start) + side)
        part = np.s_[:, cut] if width == long else np.s_[cut]
        mask[part] = np.maximum(mask[part], _outline(np.ascontiguousarray(rgb[part]), nets))
    return mask


def _outline(rgb: np.ndarray, nets: Networks) -> np.ndarray:
    """Return the network's mask of a picture, (H, W) float32 in [0, 1]."""
    small = cv2.resize(rgb, (SELFIE_PX, SELFIE_PX), interpolation=cv2.INTER_AREA)
    size = rgb.shape[1], rgb.shape[0]
    return np.clip(cv2.resize(nets.outline(small), size, interpolation=cv2.INTER_LINEAR), 0, 1)


def _parts(selected: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return the bounds (left, top, width, height) of connected parts, the largest first."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(selected.astype(np.uint8))
    found = sorted(stats[1:].tolist(), key=lambda each: -each[cv2.CC_STAT_AREA])
    least = _SMALLEST * selected.size
    return [tuple(each[:4]) for each in found if each[cv2.CC_STAT_AREA] >= least]


def _near(own: np.ndarray) -> np.ndarray:
    size = max(3, round(0.03 * max(own.shape))) | 1
    grown = cv2.dilate((own > 0.3).astype(np.uint8), np.ones((size, size), np.uint8))
    return np.asarray(grown > 0)


def _others(rgb: np.ndarray, mask: np.ndarray, own: np.ndarray, nets: Networks) -> int:
    """Count the people beside the one whose mask is `own`, at most three."""
    beside = np.where(_near(own), 0, mask).astype(np.float32)
    least = _ANOTHER * np.count_nonzero(own > _PERSON)
    count = 0
    for left, top, width, height in _parts(beside > _PERSON)[:3]:
        there = np.zeros_like(beside)
        there[top : top + height, left : left + width] = 1
        if np.count_nonzero(beside * there > _PERSON) >= least:
            count += _best_pose(rgb, beside, (left, top, width, height), nets) is not None
    return count


# ---------------------------------------------------------------- pose


@dataclass(frozen=True, eq=False)
class _Found:
    """A pose compared with the person mask."""

    pose: _Pose
    own: np.ndarray  # (H, W) float32: the pose's own mask
    within: float  # share of its own mask inside the person mask
    overlap: float  # intersection over union of both masks

    @property
    def rank(self) -> float:
        """Return the pose's rank; better poses have higher ones.

        Arms inside the body's outline do not change the overlap. But a pose with wrong arms is less
        sure of them, so their visibility counts.
        """
        return self.overlap + _ARMS_COUNT * float(self.pose.visibility[list(_ARMS)].mean())


def _best_pose(
    rgb: np.ndarray, mask: np.ndarray, bounds: tuple[int, int, int, int], nets: Networks
) -> _Found | None:
    """Return the pose that explains the person mask best, or None if none does."""
    cut_off = bounds[1] + bounds[3] >= _AT_EDGE * rgb.shape[0]
    found = _certain(rgb, mask, _round_one(bounds, cut_off=cut_off), nets)
    if not any(each.overlap >= _EXPLAINED for each in found):
        found += _certain(rgb, mask, _side_by_side(bounds, cut_off=cut_off), nets)
    return max(found, key=lambda each: each.rank, default=None)


def _certain(
    rgb: np.ndarray, mask: np.ndarray, squares: Iterable[_Square], nets: Networks
) -> list[_Found]:
    poses = [_settled(rgb, square, nets) for square in squares]
    found = [_compared(pose, mask) for pose in poses if pose and pose.score >= _CERTAIN]
    return [each for each in found if each.within >= _WITHIN]


def _compared(pose: _Pose, mask: np.ndarray) -> _Found:
    height, width = mask.shape
    matrix = pose.square.matrix(pose.mask.shape[0])
    own = np.clip(cv2.warpAffine(pose.mask, matrix, (width, height)), 0, 1)
    ours, person = own > _PERSON, mask > _PERSON
    both = int((ours & person).sum())
    within = both / max(1, int(ours.sum()))
    return _Found(pose, own, within, both / max(1, int((ours | person).sum())))


def _round_one(bounds: tuple[int, int, int, int], *, cut_off: bool) -> Iterator[_Square]:
    """Yield squares around a whole person.

    `cut_off` means that legs may go on below the picture's edge.
    """
    left, top, width, height = bounds
    x = left + width / 2
    yield _Square(x, top + height / 2, _MARGIN * max(width, height))
    if cut_off:
        yield _Square(x, top + height, _MARGIN * 2 * height)
        yield _Square(x, top + 0.75 * height, _MARGIN * 1.5 * height)


def _side_by_side(bounds: tuple[int, int, int, int], *, cut_off: bool) -> Iterator[_Square]:
    """Yield squares for several people whose masks touch."""
    left, top, width, height = bounds
    if width <= height:
        return
    count = min(_TILES, max(2, round(2 * width / height)))
    for x in np.linspace(left + height / 2, left + width - height / 2, count):
        yield _Square(float(x), top + height / 2, _MARGIN * height)
        if cut_off:
            yield _Square(float(x), top + 0.75 * height, _MARGIN * 1.5 * height)


def _settled(rgb: np.ndarray, square: _Square, nets: Networks) -> _Pose | None:
    """Return the pose once its own square holds it; None if the first square shows none."""
    best = None
    for _ in range(_ROUNDS):
        pose = _look(rgb, square, nets)
        if pose.score < _POSE:
            return best
        best, square = pose, pose.next_square()
        if not square.differs(pose.square):
            break
    return best


def _look(rgb: np.ndarray, square: _Square, nets: Networks) -> _Pose:
    landmarks, score, mask = nets.pose(square.cut(rgb, POSE_PX))
    matrix = square.matrix(POSE_PX)
    points = landmarks[:35, :2] @ matrix[:, :2].T + matrix[:, 2]
    return _Pose(
        score=score,
        points=points.astype(np.float32),
        visibility=_sigmoid(landmarks[:LANDMARKS, 3]) * _sigmoid(landmarks[:LANDMARKS, 4]),
        square=square,
        mask=_sigmoid(mask),
    )


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values.clip(-60, 60).astype(np.float64))), np.float32)


def _face(rgb: np.ndarray, pose: _Pose, nets: Networks) -> Face | None:
    """Return the face at the pose's head, or None if none is seen there."""
    head = pose.points[:11]
    middle = head.mean(axis=0)
    spread = float(np.abs(head - middle).max())
    shoulders = float(np.hypot(*(pose.points[SHOULDERS[0]] - pose.points[SHOULDERS[1]])))
    square = _Square(float(middle[0]), float(middle[1]), max(8.0, 5 * spread, 1.2 * shoulders))
    return _detect(rgb, square, nets)


def _detect(rgb: np.ndarray, square: _Square, nets: Networks) -> Face | None:
    """Find a face by BlazeFace.

    Each of its 896 anchors has a score and, from its centre, a box and six points.
    """
    boxes, logits = nets.faces(square.cut(rgb, FACE_PX))
    scores = _sigmoid(logits)
    best = int(scores.argmax())
    if scores[best] < _SEEN:
        return None

    points = boxes[best, 4:].reshape(6, 2) + _anchors()[best] * FACE_PX
    matrix = square.matrix(FACE_PX)
    right_eye, left_eye, _, mouth, right_ear, left_ear = points @ matrix[:, :2].T + matrix[:, 2]
    return Face((right_eye + left_eye) / 2, mouth, (right_ear + left_ear) / 2, float(scores[best]))


def _anchors() -> np.ndarray:
    """Return the anchors' centres, (896, 2) in [0, 1].

    Each of 16 × 16 cells has two, then each of 8 × 8 cells has six.
    """
    grids = []
    for cells, count in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
        grids.append(centres.repeat(count, axis=0))
    return np.concatenate(grids)
