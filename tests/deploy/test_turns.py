"""Ways that take turns, by a clock of the test's own."""

from __future__ import annotations

from helpers.deploy import turns


def fake_clock(monkeypatch, clock):
    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock[0])
    # The silence before a turn is no part of it.
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))


def test_the_ways_take_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, called = [0.0], []
    fake_clock(monkeypatch, clock)

    def way(name, costs):
        def run():
            called.append(name)
            clock[0] += costs[called.count(name) - 1]

        return run

    seconds = turns.take_turns({"a": way("a", [9, 2, 5]), "b": way("b", [9, 2, 15])}, 2)
    assert called == list("ababab")
    assert seconds == {"a": [2, 5], "b": [2, 15]}
    first, second = turns.ratios(seconds, "a")
    assert (first["ratio"], first["least ratio"], first["largest ratio"]) == (1, 1, 1)
    assert (second["median s"], second["ratio"]) == (8.5, 2.429)
    assert (second["least ratio"], second["largest ratio"]) == (1, 3)


def test_each_way_takes_turns_with_the_reference_while_nothing_else_is_alive(monkeypatch):
    clock, alive, called = [0.0], [], []
    fake_clock(monkeypatch, clock)
    costs = {"a": iter([9, 2, 2, 9, 4, 4]), "b": iter([9, 6, 6]), "c": iter([9, 8, 8])}

    class Way:
        def __init__(self, name):
            self.name = name
            alive.append(name)

        def __call__(self):
            called.append((self.name, sorted(alive)))
            clock[0] += next(costs[self.name])

        def __del__(self):
            alive.remove(self.name)

    makers = {name: lambda name=name: Way(name) for name in "bac"}
    reference, b, c = turns.in_pairs("a", makers, 2)
    assert called == [(name, ["a", other]) for other in "bc" for name in ("a", other) * 3]
    assert [row["way"] for row in (reference, b, c)] == ["a", "b", "c"]
    assert (reference["median s"], reference["ratio"]) == (3, 1)
    assert (b["ratio"], b["a beside it, s"], c["ratio"], c["a beside it, s"]) == (3, 2, 2, 4)
