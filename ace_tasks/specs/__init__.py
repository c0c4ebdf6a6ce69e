"""Task specs: what a catalog row may ask for, and the identity of an item.

columns       what a cell may hold
tasks         the five tasks, and the columns of each
run_settings  what a run decides for all its rows
item          an item: its sources, its model, every setting that decides its pixels
identity      the hash that identifies an item
resolution    row + settings + model → item
"""

from ace_tasks.specs.columns import (
    EXTENSIONS,
    MAX_SEED,
    MAX_URI_CHARS,
    MEDIA_TYPES,
    Adapter,
    Box,
    Control,
    Ellipse,
    Frozen,
    ImageFormat,
    Mask,
    Polygon,
    Shape,
    check_uri,
    quote,
    unique_keys,
)
from ace_tasks.specs.identity import (
    PIXELS_VERSION,
    SCORES_VERSION,
    candidate_seeds,
    earlier_item_ids,
    item_id,
)
from ace_tasks.specs.item import (
    MaskSteps,
    ModelIdentity,
    Resolved,
    Source,
    Sources,
    WorkItem,
    canonical_json,
)
from ace_tasks.specs.resolution import Identified, ItemMaker, resolve, work_item
from ace_tasks.specs.run_settings import (
    DEFAULT_PIXELS,
    PRESETS,
    AutoMask,
    AutoMethod,
    MaskRules,
    PasteSettings,
    PixelSettings,
    Preset,
    Shortcuts,
)
from ace_tasks.specs.tasks import (
    TASKS,
    Edit,
    Fill,
    OnBackground,
    Reference,
    Spec,
    TaskSpec,
    TryOn,
    parse_spec,
    row_schema,
)
