"""Identification of sources: the store is asked about many at once, before any is fetched."""

from __future__ import annotations

import unicodedata
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from itertools import chain, islice
from typing import Any

from ace_tasks.catalog.files import Checked, Reject, Spec
from ace_tasks.errors import BadRow, CatalogError, OutputRefused, StoreError, StoreUnavailable
from ace_tasks.plan.source_listings import SourceListings
from ace_tasks.provenance.ownership import is_named
from ace_tasks.specs import (
    Identified,
    ItemMaker,
    ModelIdentity,
    PixelSettings,
    Source,
    Sources,
    quote,
)
from ace_tasks.store import Store, join_uri

_IN_FLIGHT = 32
_WINDOW = 1024  # rows whose sources are looked up together, while earlier rows are processed
_KNOWN = 100_000  # sources to remember, because references repeat across a catalog
_PICTURES = ("images/", "candidates/", "review/")  # where a run writes its own pictures


def refuse_unproved(
    specs: Iterable[Checked | Reject],
    store: Store,
    output_uri: str,
    where: Callable[[int], str] | None = None,
) -> Iterator[Checked | Reject]:
    """Yield the rows unchanged, up to one whose source lies among the output's own pictures.

    A picture that a record of this output names may be edited again. Any other picture there is
    the user's own, or is held for a person. Raises OutputRefused, which names the line, the source
    and the output. For `where` see `plan_file.build_plan`.
    """
    places = tuple(join_uri(output_uri, kind) for kind in _PICTURES)
    proved: set[str] = set()
    for each in specs:
        if not isinstance(each, Reject):
            line, spec, _ = each
            among = {uri for uri in Sources.uris(spec) if uri.startswith(places)} - proved
            for uri in sorted(among):
                if not is_named(store, output_uri, uri):
                    place = where(line) if where else f"line {line}"
                    raise OutputRefused(
                        f"output: accepted: a place with no sources under {', '.join(_PICTURES)} "
                        f"except pictures that its records name; {place or 'a row'} names "
                        f"{quote(uri)} and the output is {quote(output_uri)}"
                    )
            proved |= among
        yield each


def identified(
    specs: Iterable[Checked | Reject], model: ModelIdentity, store: Store, pixels: PixelSettings
) -> Iterator[tuple[Identified, dict[str, Any]] | Reject]:
    """Yield (identified row, its cells) or a reject, in catalog order.

    Raises CatalogError if the store is unavailable.
    """
    maker = ItemMaker(model, pixels)
    try:
        with (
            store.in_parallel(_IN_FLIGHT) as pool,
            closing(SourceListings(store, pool)) as listings,
        ):
            identities = Identities(store, listings)
            for window in _asked_ahead(specs, identities, pool):
                for each in window:
                    if isinstance(each, Reject):
                        yield each
                        continue
                    line, spec, cells = each
                    try:
                        yield maker.identify(line, spec, identities.sources(spec)), cells
                    except BadRow as error:
                        yield Reject(line, error.field, str(error), cells)
    except StoreUnavailable as error:
        raise CatalogError(f"sources cannot be identified: {error}") from None


def _asked_ahead(
    specs: Iterable[Checked | Reject], identities: Identities, pool: Executor
) -> Iterator[list[Checked | Reject]]:
    """Yield the rows in windows. While one is processed, the next one's sources are looked up."""
    iterator = iter(specs)
    asked: deque[tuple[list[Checked | Reject], Iterator[list[Source]]]] = deque()
    while window := list(islice(iterator, _WINDOW)):
        asked.append((window, identities.ask(window, pool)))
        if len(asked) > 1:
            yield identities.answered(*asked.popleft())
    while asked:
        yield identities.answered(*asked.popleft())


class Identities:
    """A cache of sources as the store knows them."""

    def __init__(self, store: Store, listings: SourceListings | None = None):
        self._store, self._listings = store, listings
        self._known: OrderedDict[str, Source] = OrderedDict()
        self._asked: set[str] = set()

    def ask(self, rows: Iterable[Checked | Reject], pool: Executor) -> Iterator[list[Source]]:
        """Start looking up the unknown sources of some rows. Return an iterator of the answers."""
        uris = {uri for row in rows if not isinstance(row, Reject) for uri in Sources.uris(row[1])}
        new = [uri for uri in uris if uri not in self._known and uri not in self._asked]
        if self._listings:
            for listed in self._listings.find(new):
                self._keep(listed)
            new = [uri for uri in new if uri not in self._known]
        self._asked.update(new)
        # One share per thread: a future per source would cost as much as the row itself.
        shares = [new[start::_IN_FLIGHT] for start in range(min(_IN_FLIGHT, len(new)))]
        return pool.map(self._ask_all, shares)

    def answered(
        self, rows: list[Checked | Reject], answers: Iterator[list[Source]]
    ) -> list[Checked | Reject]:
        """Wait for the answers and return the rows. Raises StoreUnavailable."""
        sources = list(chain.from_iterable(answers))
        for source in sources:
            self._asked.discard(source.uri)
            self._keep(source)
        if self._listings:
            self._listings.compare(sources)
        return rows

    def sources(self, spec: Spec) -> Sources:
        return Sources.of(spec, self.source)

    def source(self, uri: str) -> Source:
        """Return a source as it is known. One that has left the cache is looked up again."""
        known = self._known.get(uri)
        if known is None:
            known = self._ask(uri)
            self._keep(known)
        return known

    def _keep(self, source: Source) -> None:
        self._known[source.uri] = source
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def _ask_all(self, uris: list[str]) -> list[Source]:
        return list(map(self._ask, uris))

    def _ask(self, uri: str) -> Source:
        try:
            info = self._store.head(uri)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # S3 answers a HEAD alike for a missing bucket and a missing key. A local path may be
            # one that the system cannot open, such as one that is too long.
            problem = str(error).removeprefix(f"{uri}: ")
            return Source(uri=uri, problem=problem + self._looks_the_same(uri))
        return Source(uri=uri, etag=info.etag, size_bytes=info.size_bytes, sha256=info.sha256)

    def _looks_the_same(self, uri: str) -> str:
        """Return a hint about a missing source if one with a name that looks the same exists.

        Unicode writes `ë` in two ways, and a key uploaded from a Mac has the other one.
        """
        for form in ("NFC", "NFD"):
            other = unicodedata.normalize(form, uri)
            if other == uri:
                continue
            try:
                self._store.head(other)
            except StoreUnavailable:
                raise
            except StoreError:
                continue
            return f"; one whose name looks the same is there, written in Unicode's form {form}"
        return ""
