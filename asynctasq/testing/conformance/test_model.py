"""The same random program on the memory driver and the driver under test; a difference is shown as a small program."""

import itertools
import random
from typing import Any

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release, Settlement
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.programs import DELAYS_S, NO_OP, Step, run_program
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest

PROGRAMS = 100
STEPS = 40

PINNED: tuple[tuple[Step, ...], ...] = (
    # Expired leases are taken over, their first holders settle late, the thieves release.
    (
        ("enqueue", 0, 0, 1, 2, 3),
        ("reserve", 0, 2, 0),
        ("advance", 1),
        ("reserve", 0, 5, 1),
        ("settle", 0, 1, 4, 3),
        ("settle", 2, 3, 0, 1),
        ("reserve", 1, 5, 0),
    ),
    # A dead letter is redriven and dies again, and its id stays taken all the while.
    (
        ("enqueue", 0, 0, 4),
        ("reserve", 0, 1, 0),
        ("settle", 5, 1, 0),
        ("enqueue", 1, 0, 4),
        ("redrive", 0, 1),
        ("settle", 0, 1, 0),
        ("turn", 5, 2, 1),
        ("settle", 5, 3, 0),
        ("redrive", 0, 5),
        ("turn", 5, 2, 1),
    ),
    # Of two dead letters one comes back by its id, and dies again; what lives is left alone.
    (
        ("enqueue", 0, 0, 4, 5, 6),
        ("reserve", 0, 2, 0),
        ("settle", 5, 1, 0),
        ("settle", 5, 2, 1),
        ("remove", 3, 6, 5),
        ("reserve", 0, 2, 0),
        ("settle", 5, 3, 3),
        ("remove", 3, 4, 5),
        ("turn", 5, 2, 1),
    ),
    # A lease ends between two extends; the second renews it, a third comes too late.
    (
        ("enqueue", 0, 0, 5),
        ("reserve", 0, 1, 0),
        ("extend", 0, 0),
        ("advance", 1),
        ("extend", 1, 0),
        ("reserve", 0, 1, 0),
        ("advance", 10),
        ("reserve", 0, 1, 0),
        ("extend", 0, 1),
        ("settle", 2, 1, 0),
    ),
    # A completed id is used again while its old lease is still in somebody's hands.
    (
        ("enqueue", 0, 0, 5),
        ("reserve", 0, 1, 0),
        ("settle", 0, 1, 0),
        ("enqueue", 0, 0, 5),
        ("reserve", 0, 1, 0),
        ("extend", 0, 1),
        ("settle", 0, 1, 1),
        ("turn", 2, 3, 0),
    ),
    # What is reserved is cancelled, enqueued and reserved again, and the old lease settles with a follow-up.
    (
        ("enqueue", 0, 0, 3, 5),
        ("reserve", 0, 2, 1),
        ("cancel", 3, 5, 1),
        ("enqueue", 0, 0, 5),
        ("reserve", 0, 1, 1),
        ("settle", 0, 3, 1),
        ("extend", 1, 0, 1, 2),
        ("cancel", 5, 5),
        ("settle", 2, 0, 0, 2),
    ),
    # A turn settles and takes what it released; a cancelled id is free again.
    (
        ("enqueue", 0, 0, 6, 7),
        ("turn", 2, 1, 0),
        ("turn", 2, 2, 0),
        ("remove", 0, 6, 7),
        ("settle", 3, 1, 0, 1),
        ("remove", 0, 6, 7),
        ("enqueue", 1, 3, 6, 7),
        ("advance", 2),
        ("reserve", 0, 4, 0),
    ),
    # Fair keys: ids that live, one that is cancelled and one that is released change who is next.
    (
        ("enqueue fair", 1, 0, 1, 3, 2, 5),
        ("enqueue fair", 1, 6, 1, 7),
        ("reserve", 1, 1, 0),
        ("remove", 0, 2),
        ("enqueue fair", 1, 2, 4),
        ("turn", 2, 2, 0),
        ("reserve", 1, 2, 1),
        ("settle", 0, 0, 0, 1),
        ("reserve", 1, 8, 0),
    ),
    # In one batch a message is stored, replaced, and stored again under another key.
    (("enqueue keyed", 0, 1, 1, 0, 1), ("reserve", 1, 4, 0)),
    # Leases of released messages are used once more, also one that another reserve has made stale.
    (
        ("enqueue", 0, 0, 3, 4),
        ("reserve", 0, 2, 0),
        ("settle", 3, 1, 0),
        ("settle", 4, 1, 1),
        ("again", 0, 0, 1),
        ("again", 1, 2, 3),
        ("settle", 3, 1, 0),
        ("advance", 10),
        ("reserve", 0, 2, 0),
        ("again", 1, 2),
        ("settle", 2, 1, 0),
        ("again", 1, 0),
    ),
)


def _need_exactness(store: StoreUnderTest) -> None:
    claims = store.capabilities
    if not (store.virtual and store.exact and claims.ordered.level == "yes" and claims.redrive):
        raise NotPossible("step by step needs ordered, exact_depth, redrive and clock_offset")


@conforms("any program: the driver does what the memory driver does")
async def test_pinned_programs_do_the_same_as_the_memory_driver(store: StoreUnderTest) -> None:
    _need_exactness(store)
    for number, steps in enumerate(PINNED):
        await run_program(store, f"pinned{number}", steps)


@conforms("any program: the driver does what the memory driver does")
def test_random_programs_do_the_same_as_the_memory_driver(store: StoreUnderTest) -> None:
    _need_exactness(store)
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st
    except ImportError:
        raise NotPossible("Hypothesis is not installed: pip install 'asynctasq[testing]'") from None
    small, few = st.integers(0, 7), st.integers(0, 4)
    some = st.lists(small, min_size=1, max_size=3).map(tuple)
    enqueue = st.tuples(st.just("enqueue"), small, st.integers(0, len(DELAYS_S) - 1), some).map(_flat)
    keyed = st.tuples(st.just("enqueue keyed"), few, small, some).map(_flat)
    fair = st.tuples(st.just("enqueue fair"), few, st.lists(small, min_size=3, max_size=8).map(tuple)).map(_flat)
    reserve = st.tuples(st.just("reserve"), few, few, few)
    settle = st.tuples(st.just("settle"), small, small, some).map(_flat)
    advance = st.tuples(st.just("advance"), st.sampled_from([1, 1, 2, 10, 1440]))
    rest = st.just(NO_OP)
    step = st.one_of(
        *(rest, enqueue, enqueue, keyed, keyed, fair, fair, reserve, reserve, settle, settle, advance),
        st.tuples(st.just("turn"), small, few, small),
        st.tuples(st.just("extend"), few, some).map(_flat),
        st.tuples(st.just("again"), few, some).map(_flat),
        st.tuples(st.just("redrive"), few, few),
        st.tuples(st.just("remove"), small, some).map(_flat),
        st.tuples(st.just("cancel"), some).map(_flat),
    )
    numbers = itertools.count()

    @settings(
        max_examples=max(10, store.sized(PROGRAMS)),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=False,
    )
    @given(st.lists(step, min_size=STEPS, max_size=STEPS))
    def check(steps: list[Step]) -> None:
        store.run(run_program(store, f"p{next(numbers)}", steps))

    check()


@conforms("whatever the order: every message is where its own history puts it, with its own counts")
async def test_every_message_is_where_its_own_history_puts_it(store: StoreUnderTest) -> None:
    rng = random.Random(17)
    counts: dict[str, tuple[int, int]] = {}
    held: dict[str, Lease] = {}
    dead: set[str] = set()
    for number in range(store.sized(150)):
        names = [f"m{number}-{part}" for part in range(rng.randint(1, 3))]
        await store.put(*names)
        counts |= dict.fromkeys(names, (0, 0))
        for lease in await store.driver.reserve([Q], limit=rng.randint(1, 4), lease_s=LONG_S):
            name = lease.message_id
            assert name in counts.keys() - held.keys() - dead, f"{name} was given out though it is held, dead or done"
            assert (lease.attempt - 1, lease.crashes) == counts[name]
            held[name] = lease
        for name in rng.sample(sorted(held), rng.randint(0, len(held))):
            end = _some_end(rng)
            await store.settle((held.pop(name), end))
            if isinstance(end, Complete):
                del counts[name]
            else:
                counts[name] = counts[name][0] + end.counted, counts[name][1] + end.crashed
            if isinstance(end, Bury):
                dead.add(name)

    waiting = counts.keys() - held.keys() - dead
    await store.assert_depth(ready=len(waiting), reserved=len(held), dead=len(dead))
    leases = await store.take(len(waiting)) if waiting else []
    assert {lease.message_id: (lease.attempt - 1, lease.crashes) for lease in leases} == {
        name: counts[name] for name in waiting
    }


def _some_end(rng: random.Random) -> Settlement:
    ends: list[Settlement] = [
        *(Complete(), Release(counted=True), Release(counted=False), Release(counted=False, crashed=True)),
        Bury(reason=DeadReason.FAILED, counted=True),
    ]
    return rng.choice(ends)


def _flat(parts: tuple[Any, ...]) -> Step:
    return (*parts[:-1], *parts[-1])
