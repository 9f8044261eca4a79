"""What the chapter says about the article's export rules is what the exporter does."""

from __future__ import annotations

import functools
import re

import matplotlib.pyplot as plt
import pytest

from helpers.export.rules import RULES, TRACED, TRIED, RuleError, holds, outcome, rule, rule_figure
from helpers.graph.frozen_batch import frozen_batches


@functools.cache
def measured(number):
    one = rule(number)
    return outcome(one, one.before), outcome(one, one.after)


@pytest.mark.parametrize("one", RULES, ids=lambda one: str(one.number))
def test_following_a_rule_gives_every_batch_and_the_verdict_is_what_is_measured(one):
    before, after = measured(one.number)
    assert after.good_batches == TRIED
    assert re.split("[:,]", one.verdict)[0].lower() == holds(one, before, after)


def test_how_far_each_rule_holds():
    found = [holds(one, *measured(one.number)) for one in RULES]
    economy = "as economy"
    assert found == ["in part", economy, "yes", economy, "yes", economy, "not tried", "not tried"]
    assert holds(rule(3), measured(3)[1], measured(3)[1]) == "no"


def test_the_outcomes_that_the_chapter_speaks_of():
    assert measured(3)[0].good_batches == (TRACED,)
    assert [item.value for item in frozen_batches(measured(3)[0].graph)] == [TRACED]
    assert frozen_batches(measured(3)[1].graph) == []
    assert "opset version 10" in measured(5)[0].error
    assert measured(6)[0].counted > measured(6)[1].counted == 0
    assert measured(4)[0].nodes == measured(4)[1].nodes
    assert (measured(7)[0].rank, measured(7)[1].rank) == (5, 4)


def test_the_variants_of_an_equivalent_pair_compute_the_same():
    for number in (1, 2, 3, 4, 6, 7):
        one = rule(number)
        assert one.before.function(one.example()).equal(one.after.function(one.example())), number


def words(number):
    """What stands in a rule's figure: for the broken and the followed graph, its title and its boxes."""
    figure = rule_figure(rule(number), *measured(number))
    plt.close(figure)
    return [" ".join([axis.get_title(), *(text.get_text() for text in axis.texts)]) for axis in figure.axes]


def test_figures_show_what_differs():
    for number, shapes in ((3, ([3, -1], [-1, 192])), (7, ([-1, 2, 2, 6, 8], [-1, 2, 2, 48]))):
        for panel, shape in zip(words(number), shapes, strict=True):
            assert f"Reshape to\n{shape}" in panel
    for panel, of in zip(words(4), measured(4), strict=True):  # exported alike
        assert f"{of.nodes} nodes, {of.simplified} after onnxsim" in panel
        assert panel.count("Shape") == sum(node.op_type == "Shape" for node in of.simple.graph.node)
    assert "opset version 10 is not supported" in words(5)[0].replace("\n", " ")
    broken, _ = words(6)
    assert "1 × ScatterND" in broken
    assert broken.count("Shape") <= 3  # listed, not drawn


def test_figures_show_failures_too_and_unknown_rules_are_refused():
    for number in (5, 6):
        figure = rule_figure(rule(number), *measured(number))
        assert f"Rule {number}" in figure._suptitle.get_text()
        plt.close(figure)
    with pytest.raises(RuleError, match="no export rule 9"):
        rule(9)
