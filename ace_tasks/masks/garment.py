"""The part of a person that a new garment may cover: the "agnostic" mask of try-on data sets.

As in VITON-HD and DressCode, thick lines along the limbs and a hull of the torso hide the shape of
what is worn now, while face, hair, hands and feet stay. There is no clothes model here: the shapes
follow the body, not the garment. Lengths are in shoulder widths.

Legend: H and W are the picture's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from ace_tasks.errors import BadMask, WeightsError
from ace_tasks.images.matting import shrunk
from ace_tasks.masks import person as finding
from ace_tasks.masks.person import (
    ANKLES,
    ELBOWS,
    HIPS,
    INDEXES,
    KNEES,
    PINKIES,
    SHOULDERS,
    THUMBS,
    TOES,
    WRISTS,
    Person,
)
from ace_tasks.masks.person_colours import continued
from ace_tasks.model.people import fingerprint

Part = Literal["top", "bottom", "dress"]
PARTS: tuple[Part, ...] = get_args(Part)

_MOST_PX = 1_000_000  # pixels worked on; a network sees 65,536
_SLACK = 0.02  # share of a side; a landmark this far outside still counts as in the picture
_PERSON = 0.4  # threshold of the person mask; low, so that no rim of the old garment stays
_LOOSE = 1.6  # scale at which a garment is searched around a shape of the body
# Odds of a colour being hair's, or a hand's, rather than another thing's. Hair is found by its
# colour alone. Only what is surely no hand is taken out of a hand's shape.
_HAIR, _HAND = 2.0, 0.1
_SURE = 0.85  # a pose's score; less gives a hint; 40 people alone in their picture had 0.9 to 1
_SHORT = 0.55  # share of the torso's length; shoulders seen from the side count as no narrower
_NAMES = {
    **dict.fromkeys(SHOULDERS, "shoulder"),
    **dict.fromkeys(ELBOWS, "elbow"),
    **dict.fromkeys(WRISTS, "wrist"),
    **dict.fromkeys(HIPS, "hip"),
    **dict.fromkeys(KNEES, "knee"),
    **dict.fromkeys(ANKLES, "ankle"),
}
# The landmarks that a mask follows. A mask may end where a half-body picture ends: for a top, hips
# and legs may be outside, and wrists always may.
_FOLLOWED = {
    "top": (*SHOULDERS, *ELBOWS),
    "bottom": (*HIPS, *KNEES, *ANKLES),
    "dress": (*SHOULDERS, *ELBOWS, *HIPS, *KNEES),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A mask, and the reasons why it may be wrong."""

    mask: np.ndarray  # (H, W) uint8, 255 = repaint
    hints: dict[str, str]  # code → sentence


def draw(rgb: np.ndarray, part: Part, planned: str | None) -> Drawn:
    """Draw the mask of a garment on the largest person of a picture, (H, W, 3) uint8 in sRGB.

    `planned` is the fingerprint of the networks that the plan was made with. Raises BadMask if
    there is no person, or not enough of one for this garment, and WeightsError for other networks.
    """
    if planned != (here := fingerprint()):
        raise WeightsError(
            f"person-{part}: the plan was made with networks {planned}; this package has {here}"
        )
    height, width = rgb.shape[:2]
    small = shrunk(rgb, _MOST_PX)
    person = finding.find(small)
    _check(person, part)
    mask = of_person(person, small, part)
    if small is not rgb:
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return Drawn(np.where(mask > 127, 255, 0).astype(np.uint8), _hints(person, part))


def of_person(person: Person, rgb: np.ndarray, part: Part) -> np.ndarray:
    """Return a garment's mask, (H, W) uint8, on a person found in `rgb`, (H, W, 3) uint8."""
    return _Body(person, rgb).mask(part)


# ---------------------------------------------------------------- what must be seen


def _check(person: Person, part: Part) -> None:
    """Raise BadMask for a person without enough landmarks for the garment.

    Both joints of a pair must be in the picture, and at least one of them visible.
    """
    if part != "bottom":
        if outside := _outside(person, SHOULDERS):
            raise BadMask(
                f"person-{part}: outside the picture: {_named(outside)}; accepted: a person with "
                "both shoulders in the picture"
            )
        if not any(map(person.sees, SHOULDERS)):
            raise BadMask(
                f"person-{part}: the shoulders are hidden; accepted: at least one visible"
            )
    if part != "top":
        knees = _outside(person, KNEES)
        outside = [*_outside(person, HIPS), *(knees if len(knees) == len(KNEES) else ())]
        if outside:
            raise BadMask(
                f"person-{part}: outside the picture: {_named(outside)}; accepted: a person with "
                "both hips and a knee in the picture"
            )
        if not any(map(person.sees, HIPS)):
            raise BadMask(f"person-{part}: the hips are hidden; accepted: at least one visible")


def _outside(person: Person, landmarks: Sequence[int]) -> list[int]:
    return [each for each in landmarks if not person.inside(each, _SLACK)]


def _named(landmarks: Sequence[int]) -> str:
    """Return the landmarks' names. Left and right are the person's own."""
    return ", ".join(f"{'left' if each % 2 else 'right'} {_NAMES[each]}" for each in landmarks)


def _hints(person: Person, part: Part) -> dict[str, str]:
    followed = [*_FOLLOWED[part]]
    hidden = [each for each in followed if person.inside(each) and not person.sees(each)]
    outside = _outside(person, followed)
    hints = {}
    if person.people > 1:
        hints["several_people"] = f"at least {person.people} people: its mask is the largest one's"
    if hidden:
        hints["hidden_pose"] = f"its mask follows guesses for hidden joints: {_named(hidden)}"
    if outside:
        hints["cut_off_person"] = f"the picture's edge cuts the person off: {_named(outside)}"
    if not _is_upright(person):
        hints["turned_person"] = "the person does not stand upright: is the picture turned?"
    if person.score < _SURE:
        hints["unsure_pose"] = f"its mask follows a pose that is {person.score:.0%} sure"
    return hints


def _is_upright(person: Person) -> bool:
    """Return whether the shoulders are above the hips by more than they are beside them."""
    points = person.points
    x, y = points[list(SHOULDERS)].mean(axis=0) - points[list(HIPS)].mean(axis=0)
    return bool(-y > abs(x))


class _Body:
    """A person's shapes, drawn at the size of a small picture.

    Lengths of the body are in `unit`, those of the head in `_Head.unit`.
    """

    def __init__(self, person: Person, rgb: np.ndarray):
        self.person, self.rgb = person, rgb
        self.shape = rgb.shape[:2]
        self.outline = person.mask > _PERSON
        self.shoulders = person.points[list(SHOULDERS)]
        self.hips = person.points[list(HIPS)]
        across = self.shoulders[0] - self.shoulders[1]
        self.spine = self.shoulders.mean(axis=0) - self.hips.mean(axis=0)
        length = max(1.0, float(np.hypot(*self.spine)))
        self.up = self.spine / length
        self.unit = max(float(np.hypot(*across)), _SHORT * length)
        side = np.array([-self.up[1], self.up[0]])
        self.side = side if side @ across >= 0 else -side  # towards the person's left

    def mask(self, part: Part) -> np.ndarray:
        """Return the garment's mask, (H, W) uint8."""
        selected = np.zeros(self.shape, bool)
        if part != "bottom":
            selected |= self._top(1.0) | (self._top(_LOOSE) & self.outline)
        if part != "top":
            selected |= self._bottom(1.0) | (self._bottom(1.3 * _LOOSE) & self.outline)
            selected &= ~self._feet()
        if part == "bottom":
            selected &= ~self._forearms()
        if part == "dress":
            selected |= self._skirt() & ~self._feet()
        selected &= ~(self._head() | self._hands())
        return np.where(selected, 255, 0).astype(np.uint8)

    def _top(self, wide: float) -> np.ndarray:
        canvas = self._canvas()
        hips = self._across(self.hips.mean(axis=0), 0.45)
        hems = [each - 0.1 * self.unit * self.up for each in hips]
        self._hull(canvas, [*self.shoulders, *hips, *hems], wide * 0.18)
        neck = self.shoulders.mean(axis=0)
        self._hull(canvas, [neck, neck + 0.45 * self.unit * self.up], 0.22)
        for shoulder, elbow, wrist in self._limbs(SHOULDERS, ELBOWS, WRISTS):
            self._capsule(canvas, shoulder, elbow, wide * 0.28, wide * 0.27)
            self._capsule(canvas, elbow, wrist, wide * 0.27, wide * 0.23)
        return np.asarray(canvas > 0)

    def _bottom(self, wide: float) -> np.ndarray:
        canvas = self._canvas()
        hips = self._across(self.hips.mean(axis=0), 0.35)
        waist = [each + 0.2 * self.unit * self.up for each in hips]
        self._hull(canvas, [*waist, *hips], wide * 0.13)
        for hip, knee, ankle in self._limbs(HIPS, KNEES, ANKLES):
            self._capsule(canvas, hip, knee, wide * 0.28, wide * 0.26)
            self._capsule(canvas, knee, ankle, wide * 0.26, wide * 0.2)
        self._hull(canvas, [*hips, *self.person.points[list(KNEES)]], wide * 0.1)
        return np.asarray(canvas > 0)

    def _skirt(self) -> np.ndarray:
        canvas = self._canvas()
        points = self.person.points
        self._hull(canvas, [*self.hips, *points[list(KNEES)], *points[list(ANKLES)]], 0.1)
        return np.asarray(canvas > 0)

    def _feet(self) -> np.ndarray:
        """Return everything beyond an ankle, seen from its knee, within a foot's length."""
        kept = np.zeros(self.shape, bool)
        for knee, ankle, toe in self._limbs(KNEES, ANKLES, TOES):
            shin = ankle - knee
            shin = shin / max(1.0, float(np.hypot(*shin)))
            beyond = self._beyond(ankle - 0.05 * self.unit * shin, shin)
            canvas = self._canvas()
            self._capsule(canvas, ankle, toe, 0.32, 0.32)
            kept |= beyond & (canvas > 0)
        return kept

    def _head(self) -> np.ndarray:
        """Return face and hair, and the background beside them."""
        head = _Head(self.person, self.unit)
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        beside, above = head.coordinates(x, y)
        canvas = self._canvas()
        head.draw_face(canvas)
        face = canvas > 0
        # Wider at the top: shoulders are beside a bowed chin, hair is beside the ears.
        near = (above > 0) & (np.abs(beside) < 1.1 + 0.9 * above) & (np.hypot(beside, above) < 5)
        kept = face | (near & (self.outline | (np.abs(beside) < 2.5)))
        top_of_head = near & ~face & (above > 1.9)
        below = (np.abs(beside) < 2.8) & (above < 2.2) & ~face
        hair = self._long_hair(head, top_of_head, below)
        return np.asarray(kept if hair is None else kept | hair)

    def _long_hair(self, head: _Head, hair: np.ndarray, where: np.ndarray) -> np.ndarray | None:
        """Return what continues the hair above the eyes, down to the chest.

        None if the colours do not show it.
        """
        sure = self.person.mask > 0.9
        garment, cheeks = self._canvas(), self._canvas()
        low, high = (self.hips + share * self.spine for share in (0.35, 0.8))
        self._hull(garment, [*low, *high], 0.0)
        head.draw_face(cheeks, 0.55)
        chest = self.shoulders.mean(axis=0) - 0.9 * self.unit * self.up
        others = [(garment > 0) & sure, (cheeks > 0) & sure]
        where = where & self._beyond(chest, self.up) & self.outline
        return continued(self.rgb, hair & sure, others, where, 0.015 * self.unit, _HAIR)

    def _hands(self) -> np.ndarray:
        kept = np.zeros(self.shape, bool)
        for number, joints in enumerate(self._limbs(ELBOWS, WRISTS, PINKIES, INDEXES, THUMBS)):
            if self.person.inside(WRISTS[number], _SLACK):
                kept |= self._hand(*joints)
        return kept

    def _hand(
        self,
        elbow: np.ndarray,
        wrist: np.ndarray,
        pinky: np.ndarray,
        index: np.ndarray,
        thumb: np.ndarray,
    ) -> np.ndarray:
        knuckles = (pinky + index) / 2
        reach = knuckles - wrist
        radius = max(0.6 * float(np.hypot(*reach)) / self.unit, 0.1)
        canvas, inner, around = self._canvas(), self._canvas(), self._canvas()
        self._capsule(canvas, wrist + 0.5 * reach, wrist + 2.1 * reach, radius, radius)
        self._capsule(canvas, knuckles, thumb, radius, 0.6 * radius)
        self._capsule(inner, wrist + 0.4 * reach, wrist + 1.2 * reach, 0.3 * radius, 0.3 * radius)
        self._capsule(around, wrist + 0.5 * reach, wrist + 2.1 * reach, 2.2 * radius, 2.2 * radius)
        forearm = self._canvas()
        self._capsule(forearm, elbow, wrist + 0.5 * reach, 0.2, 0.15)
        area = (canvas > 0) & self.outline
        beside = (around > 0) & self.outline & (canvas == 0) & (forearm == 0)
        sure = (inner > 0) & self.outline
        hand = continued(self.rgb, sure, [beside], area, 0.01 * self.unit, _HAND)
        return np.asarray(area if hand is None else hand)

    def _forearms(self) -> np.ndarray:
        canvas = self._canvas()
        for elbow, wrist, index in self._limbs(ELBOWS, WRISTS, INDEXES):
            self._capsule(canvas, elbow, wrist, 0.12, 0.1)
            self._capsule(canvas, wrist, (wrist + index) / 2, 0.1, 0.1)
        return np.asarray((canvas > 0) & self.outline)

    def _limbs(self, *joints: tuple[int, int]) -> list[list[np.ndarray]]:
        """Return the points of these joints, first the left side's, then the right side's."""
        return [[self.person.points[each[side]] for each in joints] for side in (0, 1)]

    def _beyond(self, point: np.ndarray, way: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        return np.asarray((x - point[0]) * way[0] + (y - point[1]) * way[1] > 0)

    def _across(self, middle: np.ndarray, reach: float) -> list[np.ndarray]:
        return [middle + sign * reach * self.unit * self.side for sign in (1, -1)]

    # ------------------------------------------------------------ drawing

    def _canvas(self) -> np.ndarray:
        return np.zeros(self.shape, np.uint8)

    def _capsule(
        self, canvas: np.ndarray, start: np.ndarray, end: np.ndarray, wide: float, narrow: float
    ) -> None:
        """Draw a limb. `wide` is its radius at the start, `narrow` at the end."""
        round_ = [*_circle(start, wide * self.unit), *_circle(end, narrow * self.unit)]
        self._fill(canvas, round_)

    def _hull(self, canvas: np.ndarray, points: Sequence[np.ndarray], margin: float) -> None:
        self._fill(canvas, [each for p in points for each in _circle(p, margin * self.unit)])

    def _fill(self, canvas: np.ndarray, points: Sequence[np.ndarray]) -> None:
        hull = cv2.convexHull(np.asarray(points, np.float32))
        cv2.fillConvexPoly(canvas, np.round(hull).astype(np.int32), 255)


class _Head:
    """The place of a head.

    `unit` is its length from the mouth to the eyes, a third of a face.
    """

    def __init__(self, person: Person, body: float):
        points, face = person.points, person.face
        if face is None:
            eyes = points[[finding.LEFT_EYE, finding.RIGHT_EYE]].mean(axis=0)
            mouth = points[list(finding.MOUTH)].mean(axis=0)
            ears = points[[finding.LEFT_EAR, finding.RIGHT_EAR]].mean(axis=0)
        else:
            eyes, mouth, ears = face.eyes, face.mouth, face.ears
        rise = eyes - mouth
        length = max(1e-6, float(np.hypot(*rise)))
        self.up = rise / length
        self.unit = max(length, 0.12 * body)  # a bowed face is foreshortened
        self.side = np.array([-self.up[1], self.up[0]])
        self.chin = mouth - 0.75 * self.unit * self.up
        # Seen from the side, the head is behind the eyes.
        self.middle = (eyes + ears) / 2 - 0.2 * self.unit * self.up

    def coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far pixels are beside the head's axis and above the chin, in units."""
        across = (x - self.middle[0]) * self.side[0] + (y - self.middle[1]) * self.side[1]
        above = (x - self.chin[0]) * self.up[0] + (y - self.chin[1]) * self.up[1]
        return across / self.unit, above / self.unit

    def draw_face(self, canvas: np.ndarray, share: float = 1.0) -> None:
        centre = round(float(self.middle[0])), round(float(self.middle[1]))
        axes = round(share * 1.15 * self.unit), round(share * 1.75 * self.unit)
        angle = float(np.degrees(np.arctan2(self.up[0], -self.up[1])))
        cv2.ellipse(canvas, centre, axes, angle, 0, 360, 255, cv2.FILLED)


def _circle(middle: np.ndarray, radius: float) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return list(middle + radius * np.column_stack([np.cos(angles), np.sin(angles)]))
