"""The choice tape: every decision of a simulation is a labelled, bounded draw that is recorded and can be replayed."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeAlias, TypeVar

from asynctasq.testing.errors import TapeMismatch
from asynctasq.testing.tape.file import read_tape_file, write_tape_file

__all__ = ["Entry", "Tape"]

S = TypeVar("S")

Entry: TypeAlias = tuple[str, int, int]
"""Label, number of possible values, value drawn."""

_UNIT = 1 << 53
_ID_BITS = (1 << 128) - 1
_ID_STRIDE = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, so that 2**128 ids pass before one comes again


def _stream_seed(seed: int, label: str) -> int:
    # Not hash(): that differs between processes.
    return int.from_bytes(hashlib.blake2b(f"{seed}:{label}".encode(), digest_size=16).digest(), "big")


def _zero() -> float:
    return 0.0


class _Streams(dict[str, Callable[[], float]]):
    """One random stream per label, made when first asked for: a new label shifts no other."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def __missing__(self, label: str) -> Callable[[], float]:
        stream = Random(_stream_seed(self._seed, label)).random if self._seed else _zero
        self[label] = stream
        return stream


class Tape:
    """Draw every decision of one run from one seed, and keep the draws.

    The value 0 is always the simplest choice (first in line, no fault, no latency), so that a tape with
    more zeros is a simpler run. Seed 0 draws nothing but zeros and keeps no entries.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._recorded: list[Entry] = []
        self._streams = _Streams(seed)
        self._ids: dict[str, int] = {}
        self.mismatch: TapeMismatch | None = None
        """How a strict replay first differed from what was recorded."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} seed {self.seed}, {len(self._recorded)} entries>"

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on; ids go on as they began."""
        self.seed = seed
        self._streams = _Streams(seed)

    @property
    def entries(self) -> Sequence[Entry]:
        """What was drawn so far, oldest first; do not change it."""
        return self._recorded

    def draw(self, label: str, n: int) -> int:
        """Return one of 0 .. n-1. With n <= 1 there is no choice: 0, not recorded."""
        if n <= 1:
            return 0
        value = int(self._streams[label]() * n) if n <= _UNIT else self._draw_large(label, n)
        if self.seed:
            self._recorded.append((label, n, value))
        return value

    def chance(self, label: str, p: float) -> bool:
        """Return True with probability `p`. Certainties (p <= 0, p >= 1) are no decisions and are not recorded."""
        if not 0.0 < p < 1.0:
            return p >= 1.0
        chosen = self._streams[label]() >= 1.0 - p
        if self.seed:
            self._recorded.append((label, 2, 1 if chosen else 0))
        return chosen

    def uniform_us(self, label: str, low: int, high: int) -> int:
        """Return whole microseconds in low .. high, both included; `low` is the simplest."""
        return low + self.draw(label, high - low + 1)

    def bytes16(self, label: str) -> bytes:
        """Return 16 bytes for an id, never the same twice under one label.

        They follow from seed, label and count alone. They are not recorded and zeroing a tape keeps
        them: an id of all zeros would be no simpler, only wrong.
        """
        value = self._ids.get(label)
        if value is None:
            value = _stream_seed(self.seed, f"id:{label}")
        self._ids[label] = (value + _ID_STRIDE) & _ID_BITS
        return value.to_bytes(16, "big")

    def random(self, label: str) -> Random:
        """Return a `random.Random` whose every number is drawn from this tape under `label`."""
        return TapeRandom(self, label)

    def digest(self) -> str:
        """Return a hash of all entries; equal on every Python and in every process."""
        text = ";".join(f"{label},{n},{value}" for label, n, value in self.entries)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def finish(self) -> None:
        """Say that the run is over; a strict replay checks that no entry is left."""

    def save(self, path: str | Path, *, note: str = "") -> None:
        """Write the tape as JSON, with the version of the code that drew it and a `note` for the reader."""
        write_tape_file(Path(path), seed=self.seed, entries=self.entries, note=note)

    @classmethod
    def load(cls, path: str | Path, *, strict: bool = True) -> "Tape":
        """Return a replay of a saved tape.

        Raises: TapeMismatch if the file is no tape, or of a newer format.
        """
        saved = read_tape_file(Path(path))
        if saved.seed == 0 and not saved.entries:
            return Tape(0)
        return cls.replay(saved.entries, strict=strict, seed=saved.seed, origin=saved.origin)

    @staticmethod
    def replay(entries: Iterable[Entry], *, strict: bool = True, seed: int = 0, origin: str = "") -> "Tape":
        """Return a tape that gives these values again.

        Strict: another label or bound than recorded is an error, it means that the code changed.
        Otherwise each label is read on its own and what is missing or out of bounds is 0, which is
        what shrinking needs. `seed` is the seed that drew them: ids follow from it.
        """
        return _StrictReplay(entries, seed, origin) if strict else _LooseReplay(entries, seed)

    def _draw_large(self, label: str, n: int) -> int:
        """Draw beyond what one float resolves, from as many as it takes; the tiny bias is no matter here."""
        stream = self._streams[label]
        value = 0
        for _ in range(-(-n.bit_length() // 53) + 1):
            value = value << 53 | int(stream() * _UNIT)
        return value % n


class _StrictReplay(Tape):
    """Gives back what was recorded, in order, and fails at the first difference; zeros wind the run down then."""

    def __init__(self, entries: Iterable[Entry], seed: int, origin: str) -> None:
        super().__init__(seed)
        self._entries = [(str(label), int(n), int(value)) for label, n, value in entries]
        self._origin = origin

    def draw(self, label: str, n: int) -> int:
        if n <= 1 or self.mismatch is not None:
            return 0
        index = len(self._recorded)
        if index >= len(self._entries):
            raise self._mismatch(index, f"draws {label!r} of {n}, and the tape ends there")
        entry = self._entries[index]
        if entry[0] != label or entry[1] != n:
            raise self._mismatch(index, f"draws {label!r} of {n}, the tape has {entry[0]!r} of {entry[1]}")
        self._recorded.append(entry)
        return entry[2]

    def chance(self, label: str, p: float) -> bool:
        return self.draw(label, 2) == 1 if 0.0 < p < 1.0 else p >= 1.0

    def finish(self) -> None:
        if self.mismatch is not None:
            raise self.mismatch
        used = len(self._recorded)
        if used < len(self._entries):
            raise self._mismatch(used, f"ended, and the tape goes on with {self._entries[used][0]!r}")

    def _mismatch(self, index: int, what: str) -> TapeMismatch:
        self.mismatch = TapeMismatch(
            f"at decision {index + 1} of {len(self._entries)} the run {what}: the code, or the Python version, is not "
            f"the one that recorded this tape{self._origin}; look for the failure again from seed {self.seed}"
        )
        return self.mismatch


class _LooseReplay(Tape):
    """Reads every label on its own; zero for what is missing or no longer possible."""

    def __init__(self, entries: Iterable[Entry], seed: int) -> None:
        super().__init__(seed)
        by_label: dict[str, list[int]] = {}
        for label, _, value in entries:
            by_label.setdefault(label, []).append(value)
        self._values = {label: iter(values) for label, values in by_label.items()}
        self._empty = iter(())

    def draw(self, label: str, n: int) -> int:
        if n <= 1:
            return 0
        value = next(self._values.get(label, self._empty), 0)
        if value >= n:
            value = 0
        self._recorded.append((label, n, value))
        return value

    def chance(self, label: str, p: float) -> bool:
        return self.draw(label, 2) == 1 if 0.0 < p < 1.0 else p >= 1.0


class TapeRandom(Random):
    """A `random.Random` on a tape, for code that wants an rng.

    The distributions that draw until they like a number would never end on zeros: those draw one
    seed from the tape and work from that.
    """

    def __init__(self, tape: Tape, label: str) -> None:
        super().__init__(0)
        self._tape = tape
        self._label = label

    def random(self) -> float:
        return self._tape.draw(self._label, _UNIT) / _UNIT

    def getrandbits(self, k: int, /) -> int:
        return self._tape.draw(self._label, 1 << k)

    def _randbelow(self, n: int) -> int:
        # One draw with the bound that is meant; random.Random would draw bits until they are small enough.
        return self._tape.draw(self._label, n)

    def sample(self, population: Sequence[S], k: int, *, counts: Iterable[int] | None = None) -> list[S]:
        if counts is not None:
            population = [item for item, count in zip(population, counts, strict=True) for _ in range(count)]
        if not 0 <= k <= len(population):
            raise ValueError("Sample larger than population or is negative")
        swapped: dict[int, int] = {}
        chosen: list[S] = []
        for index in range(k):
            other = index + self._randbelow(len(population) - index)
            chosen.append(population[swapped.get(other, other)])
            swapped[other] = swapped.get(index, index)
        return chosen

    def seed(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the tape is the seed."""

    def getstate(self) -> Any:
        raise NotImplementedError("a tape has no state to copy; save it with Tape.save")

    def setstate(self, state: Any) -> None:
        raise NotImplementedError("a tape has no state to set; use Tape.replay")

    def normalvariate(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        return self._seeded_random().normalvariate(mu, sigma)

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        return self._seeded_random().gauss(mu, sigma)

    def gammavariate(self, alpha: float, beta: float) -> float:
        return self._seeded_random().gammavariate(alpha, beta)

    def vonmisesvariate(self, mu: float, kappa: float) -> float:
        return self._seeded_random().vonmisesvariate(mu, kappa)

    def binomialvariate(self, n: int = 1, p: float = 0.5) -> int:
        rng = self._seeded_random()
        return sum(rng.random() < p for _ in range(n))

    def _seeded_random(self) -> Random:
        return Random(self._tape.draw(self._label, 1 << 32))
