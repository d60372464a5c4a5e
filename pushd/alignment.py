"""
How two lists of JSON values align: which elements are the same ones, in their order, moved, or
edited. Everything is bounded by an amount of work, not by a clock, so that the same two lists
always align in the same way.

Nothing here knows what a patch or an event looks like: that is ``delta``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from itertools import accumulate, islice
from operator import lt
from typing import Literal, TypeAlias

import msgspec

from pushd.equality import canonical, differences, same
from pushd.event import Json
from pushd.naming import Loose, Pairs, named, once, without
from pushd.work import TooFarApart, Work

Run: TypeAlias = "tuple[int, int, int]"
"""Where elements of the new list begin that are together in the old one, where there, how many."""

Step: TypeAlias = "tuple[Literal['remove', 'move', 'add'], int, int]"
"""``remove``, index, 0; ``move``, from, index; or ``add``, index, place in the new list."""

_EDITS = 100
"""How far apart two lists may be for a shortest edit script, which costs its square."""
_SAMPLE = 16
"""How many changed elements are looked at to see whether they have only changed places."""
_BLOCK = 256
"""How many elements are compared at a time once a run of equal ones has begun."""


class Alignment(msgspec.Struct):
    """
    How a new list came out of an old one. Places count from 0.

    :ivar kept: the runs of elements that stay in their order, ascending; the elements that both
        lists begin or end with may be left out.
    :ivar moved: the elements that don't.
    :ivar edited: the pairs among all these whose values differ.
    :ivar removed: the old places of elements that are gone, ascending.
    :ivar added: the new places of elements that came.
    """

    kept: list[Run]
    moved: Pairs
    edited: Pairs
    removed: list[int]
    added: list[int]

    def part(self, place: int) -> None:
        """Take a moved element for one that went and another that came."""
        insort(self.removed, self.moved.pop(place))
        self.added.append(place)

    def steps(self) -> Iterator[Step]:
        """
        What to do to the old list, one after the other, so that it has the new order.

        Every index is that of the moment, as in RFC 6902; a move takes out first and puts in
        then (section 4.4).
        """
        for source in reversed(self.removed):
            yield "remove", source, 0
        # What is yet to move stands where it stood between the runs, behind what has already
        # come to that gap.
        waiting = sorted(self.moved.values())
        olds, news = _starts(self.kept)
        kept = [0, *accumulate(length for _, _, length in self.kept)]
        for place in sorted((*self.added, *self.moved)):
            gap = bisect_left(news, place)
            source = self.moved.get(place, -1)
            start = bisect_left(waiting, source)
            if source >= 0:
                del waiting[start]
                its_gap = bisect_left(olds, source)
                start += news[its_gap] if its_gap < gap else place + kept[its_gap] - kept[gap]
            index = place + (bisect_left(waiting, olds[gap - 1]) if gap else 0)
            if source < 0:
                yield "add", index, place
            elif start != index:
                yield "move", start, index


def align(old: list[Json], new: list[Json], most: int, work: Work) -> Alignment:
    """
    Find the elements of ``old`` in ``new``.

    :param most: how many steps and edits it may take.
    :raises TooFarApart: if it takes more.
    :raises TooMuchWork: if the work is used up.
    :raises RecursionError: if the elements are too deep.
    """
    work.spend(4000 + 10 * (len(old) + len(new)))
    if abs(len(old) - len(new)) > most:
        raise TooFarApart
    if len(old) == len(new):
        changed = _changed_in_place(old, new, most, work)
        if changed is not None:
            return Alignment([], {}, dict(zip(changed, changed, strict=True)), [], [])
    head = _common(old, new)
    old, new = old[head:], new[head:]
    tail = _common(old[::-1], new[::-1])
    return _align(old[: len(old) - tail], new[: len(new) - tail], head, most, work)


def increasing(numbers: list[int], most: int) -> list[int]:
    """
    The places of a longest increasing subsequence of distinct numbers, ascending.

    Raises TooFarApart if it leaves out more than ``most`` numbers.
    """
    if all(map(lt, numbers, islice(numbers, 1, None))):
        return list(range(len(numbers)))
    tails: list[int] = []  # the smallest number that ends a subsequence of each length
    ends: list[int] = []  # its place
    before: list[int] = []  # for every place, the place before it in its subsequence
    for place, number in enumerate(numbers):
        length = len(tails)
        if not length or number > tails[-1]:
            tails.append(number)
            ends.append(place)
        else:
            length = bisect_left(tails, number)
            tails[length] = number
            ends[length] = place
            if place - len(tails) >= most:  # so many of those seen are left out, at least
                raise TooFarApart
        before.append(ends[length - 1] if length else -1)
    found: list[int] = []
    place = ends[-1] if ends else -1
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]


def _changed_in_place(old: list[Json], new: list[Json], most: int, work: Work) -> list[int] | None:
    """The places that differ; None if elements seem to have changed theirs."""
    try:
        changed = differences(old, new, most, work)
    except TooFarApart:
        return None
    if len(changed) == 1:
        return changed
    # Where elements have shifted, the first few show it already. What the others cost, mostly
    # for the containers in them, is paid before they are looked at.
    for places in (changed[:_SAMPLE], changed)[: 1 if len(changed) <= _SAMPLE else 2]:
        work.spend(3000 + 150 * len(places))
        gone = {canonical(old[place]) for place in places}
        if not gone.isdisjoint(canonical(new[place]) for place in places):
            return None
        price = sum(4 * len(name) + 80 * (name.count(b"[") + name.count(b"{")) for name in gone)
        work.spend(price * (len(changed) - len(places)) // max(1, len(gone)))
    pairs = named(old, new, (changed, changed), work)
    return changed if all(place == source for place, source in pairs.items()) else None


def _common(old: list[Json], new: list[Json]) -> int:
    """With how many equal elements two lists begin."""
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        if same(old[low:middle], new[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low


def _align(old: list[Json], new: list[Json], head: int, most: int, work: Work) -> Alignment:
    """Align lists that begin and end differently; ``head`` elements went before them."""
    work.spend(15000 + 50 * (len(old) + len(new)))
    old_bytes, new_bytes = list(map(canonical, old)), list(map(canonical, new))
    work.spend(sum(map(len, old_bytes)))
    # The most certain first; each step pairs only what the ones before have left.
    kept = _unmoved(old_bytes, new_bytes, most, work)
    loose = _between(kept, len(old), len(new))
    work.spend(500 * (len(loose[0]) + len(loose[1])))
    found = _shared(old_bytes, new_bytes, loose)
    loose = without(loose, found)
    by_name = named(old, new, loose, work)
    loose = without(loose, by_name)
    kept, moved = _settle(kept, found | by_name, most, work)
    beside = _beside(kept, loose)
    gone, came = without(loose, beside)
    edited = {
        place: source
        for place, source in (by_name | beside).items()
        if old_bytes[source] != new_bytes[place]
    }
    if len(moved) + len(gone) + len(came) + len(edited) > most:
        raise TooFarApart
    return Alignment(
        kept=[(head + p, head + s, length) for p, s, length in _joined(kept, beside)],
        moved={head + place: head + source for place, source in moved.items()},
        edited={head + place: head + source for place, source in edited.items()},
        removed=[head + place for place in gone],
        added=[head + place for place in came],
    )


def _unmoved(old: list[bytes], new: list[bytes], most: int, work: Work) -> list[Run]:
    """The runs of equal elements that are in the same order in both lists."""
    # Edit scripts have a purse of their own: without one there may still be a good alignment.
    purse = Work(work.left // 4)
    work.left -= purse.left
    edits = min(_EDITS, 2 * most)  # taking out and putting in may end as one step
    runs = _script(old, new, edits, purse)
    if runs is None:
        # Too far apart. The elements that either list has once cut it into pieces (the idea
        # of patience diff), of which many are empty or have nothing in common.
        work.spend(250 * (len(old) + len(new)))
        pairs = _shared(old, new, (list(range(len(old))), list(range(len(new)))))
        anchors = _in_order(list(pairs.items()), most, work)
        runs = _joined(_pieces(old, new, anchors, edits, purse), anchors)
    work.left += max(0, purse.left)
    return runs


def _pieces(
    old: list[bytes], new: list[bytes], anchors: Pairs, most: int, purse: Work
) -> list[Run]:
    """The equal runs between anchors."""
    runs = []
    place = source = 0
    for next_place, next_source in [*anchors.items(), (len(new), len(old))]:
        if place < next_place and source < next_source:
            script = _script(old[source:next_source], new[place:next_place], most, purse)
            runs += [(place + p, source + s, length) for p, s, length in script or ()]
        place, source = next_place + 1, next_source + 1
    return runs


def _script(old: list[bytes], new: list[bytes], most: int, purse: Work) -> list[Run] | None:
    """
    The runs that a shortest edit script leaves alone; None if it has more than ``most`` edits.

    This is the greedy algorithm of E. Myers, "An O(ND) Difference Algorithm and Its
    Variations" (1986). ``x`` counts in old, ``y`` in new, and ``reach[k]`` is the furthest
    ``x`` on the diagonal ``x - y == k``.
    """
    if not purse.affords(20 * (len(old) + len(new))) or abs(len(old) - len(new)) > most:
        return None
    if set(old).isdisjoint(new):
        return []
    reach = {1: 0}
    trail = []
    for edits in range(most + 1):
        trail.append(reach.copy())
        for k in range(-edits, edits + 1, 2):
            x = _enter(reach, k, edits)
            length = _run(old, x, new, x - k)
            if not purse.affords(500 + 15 * length):
                return None
            reach[k] = x = x + length
            if x >= len(old) and x - k >= len(new):
                return _retrace(trail, len(old), len(new))
    return None


def _enter(reach: dict[int, int], k: int, edits: int) -> int:
    """Where the furthest path of so many edits comes to diagonal ``k``, by the last of them."""
    if k == -edits or (k != edits and reach[k - 1] < reach[k + 1]):
        return reach[k + 1]
    return reach[k - 1] + 1


def _run(old: list[bytes], x: int, new: list[bytes], y: int) -> int:
    """How many elements are equal from ``old[x]`` and ``new[y]`` on."""
    start = x
    end = x + min(len(old) - x, len(new) - y)
    while x < end and old[x] == new[y]:
        x, y = x + 1, y + 1
        if x - start == _BLOCK:  # long runs at the speed of C
            while x + _BLOCK <= end and old[x : x + _BLOCK] == new[y : y + _BLOCK]:
                x, y = x + _BLOCK, y + _BLOCK
    return x - start


def _retrace(trail: list[dict[int, int]], x: int, y: int) -> list[Run]:
    """Walk an edit script back, from its end; its runs, ascending."""
    runs = []
    for edits in range(len(trail) - 1, 0, -1):
        k = x - y
        start = _enter(trail[edits], k, edits)
        runs.append((start - k, start, x - start))
        if start == trail[edits].get(k + 1):  # the edit before the run put in ...
            x, y = start, start - k - 1
        else:  # ... or took out
            x, y = start - 1, start - k
    runs.append((0, 0, x))
    return [run for run in reversed(runs) if run[2]]


def _shared(old: list[bytes], new: list[bytes], loose: Loose) -> Pairs:
    """The pairs of equal elements that are loose once in either list."""
    sources = once([old[place] for place in loose[0]], loose[0])
    places = once([new[place] for place in loose[1]], loose[1])
    return {place: sources[name] for name, place in places.items() if name in sources}


def _in_order(pairs: list[tuple[int, int]], most: int, work: Work) -> Pairs:
    """
    As many of the pairs, which ascend in the new list, as ascend in the old one, too.

    Each one left out will be a step: more than ``most`` are too many.
    """
    work.spend(250 * len(pairs))
    order = increasing([source for _, source in pairs], most)
    return dict(map(pairs.__getitem__, order))


def _settle(kept: list[Run], found: Pairs, most: int, work: Work) -> tuple[list[Run], Pairs]:
    """Tell the pairs found that are in order, which become runs, from those that have moved."""
    olds, news = _starts(kept)
    fitting = [
        (place, source)
        for place, source in sorted(found.items())
        if bisect_left(news, place) == bisect_left(olds, source)
    ]
    chosen = _in_order(fitting, most, work)
    moved = {place: source for place, source in found.items() if place not in chosen}
    return _joined(kept, chosen), moved


def _beside(kept: list[Run], loose: Loose) -> Pairs:
    """Pair what is left between the same runs, first with first and so on."""
    olds, news = _starts(kept)
    gaps: dict[int, deque[int]] = {}
    for source in loose[0]:
        gaps.setdefault(bisect_left(olds, source), deque()).append(source)
    pairs = {}
    for place in loose[1]:
        gap = gaps.get(bisect_left(news, place))
        if gap:
            pairs[place] = gap.popleft()
    return pairs


def _starts(runs: list[Run]) -> tuple[list[int], list[int]]:
    """Where runs begin in the old list, and where in the new one."""
    return [source for _, source, _ in runs], [place for place, _, _ in runs]


def _joined(runs: list[Run], pairs: Pairs) -> list[Run]:
    """Runs and pairs that are in order, as runs."""
    if not pairs:
        return runs
    joined: list[Run] = []
    for place, source, length in sorted([*runs, *((p, s, 1) for p, s in pairs.items())]):
        if joined:
            start, old_start, before = joined[-1]
            if place - start == source - old_start == before:
                joined[-1] = start, old_start, before + length
                continue
        joined.append((place, source, length))
    return joined


def _between(runs: list[Run], old_length: int, new_length: int) -> Loose:
    """The places that no run covers."""
    olds: list[int] = []
    news: list[int] = []
    place = source = 0
    for next_place, next_source, length in [*runs, (new_length, old_length, 0)]:
        news += range(place, next_place)
        olds += range(source, next_source)
        place, source = next_place + length, next_source + length
    return olds, news
