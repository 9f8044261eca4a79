"""Ways that take turns, by a clock of the test's own."""

from __future__ import annotations

from helpers.deploy import turns


def test_the_ways_take_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, called = [0.0], []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock[0])
    # The silence before a turn is no part of it.
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

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
