"""Whether two tensors hold the same numbers in the same order, told from their fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.compare.fingerprints import TOLERANCE, distance, fingerprint, is_run, same_rows


def tensor(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def noisy(array: np.ndarray) -> np.ndarray:
    return (array * (1 + 1e-6 * np.random.default_rng(9).standard_normal(array.shape))).astype(np.float32)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return distance(fingerprint(first), fingerprint(second)) <= TOLERANCE


def rows_of(array: np.ndarray) -> np.ndarray:
    return fingerprint(array).rows[0]


@settings(max_examples=40)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=4), st.integers(0, 99), st.data())
def test_rounding_and_reshaping_keep_the_order_and_any_other_order_is_seen(shape, seed, data):
    array = tensor(*shape, seed=seed)
    assert same(array, noisy(array).reshape(1, -1))
    axis = data.draw(st.integers(0, len(shape) - 1))
    a, b = data.draw(st.permutations(range(shape[axis])))[:2]
    order = np.arange(shape[axis])
    order[[a, b]] = order[[b, a]]
    assert not same(array, np.take(array, order, axis))
    perm = data.draw(st.permutations(range(len(shape))))
    assert same(array, array.transpose(perm)) == (list(perm) == sorted(perm))


@pytest.mark.parametrize("shape", [(1, 64, 40, 40), (1, 8, 256, 256), (3, 65536), (2, 65537)])
def test_two_swapped_channels_of_a_large_tensor_are_seen(shape):
    # Beyond 65536 numbers a projection is made of blocks; in the middle two shapes a channel is a whole block.
    array = tensor(*shape)
    axis = next(i for i, n in enumerate(shape) if n > 1)
    order = np.arange(shape[axis])
    order[[0, 1]] = [1, 0]
    assert not same(array, np.take(array, order, axis))
    assert same(array, noisy(array))


@settings(max_examples=40)
@given(st.integers(10, 3000), st.floats(0.01, 1), st.integers(0, 99))
def test_the_distance_is_the_root_mean_square_up_to_a_factor_near_1(count, size, seed):
    array = tensor(count, seed=seed)
    other = (array + size * tensor(count, seed=seed + 1000)).astype(np.float32)
    measured = distance(fingerprint(array), fingerprint(other))
    true = float(np.sqrt(np.mean((other - array) ** 2) / np.mean(other**2)))
    # The larger of two normal numbers' absolute values: below 0.02 in one of 4000 cases.
    assert 0.005 < measured / true < 6


def test_infinite_values_are_told_apart_and_agree_with_themselves():
    array = tensor(6, 7)
    array[2, 3] = np.inf
    assert same(array, array)
    assert distance(fingerprint(array), fingerprint(tensor(6, 7))) == np.inf


@settings(max_examples=40)
@given(st.integers(60, 400), st.integers(0, 99), st.integers(0, 38))
def test_rows_may_change_places_with_their_neighbours_and_blocks_may_not(count, seed, place):
    rows = tensor(1, count, 4, seed=seed)
    neighbours = np.arange(count)
    neighbours[[place, place + 1]] = [place + 1, place]
    own = rows_of(rows)
    assert same_rows(own, rows_of(noisy(rows[:, neighbours])))

    assert not same_rows(own, rows_of(rows[:, np.roll(np.arange(count), count // 2)]))
    assert not same_rows(own, rows_of(rows[..., [1, 0, 2, 3]]))


@settings(max_examples=40)
@given(st.integers(40, 300), st.integers(0, 200), st.integers(0, 200), st.integers(0, 99), st.sampled_from([1, 4]))
def test_one_level_is_found_among_all_and_nothing_else_is(count, before, after, seed, width):
    level = tensor(count, width, seed=seed)
    levels = np.concatenate([tensor(before, width, seed=seed + 1), noisy(level), tensor(after, width, seed=seed + 2)])
    assert is_run(rows_of(level), rows_of(levels))
    assert is_run(rows_of(level[np.argsort(level[:, 0])]), rows_of(levels))
    other = level.copy()
    other[7] += 1
    assert not is_run(rows_of(other), rows_of(levels))
    assert not is_run(rows_of(np.roll(level, 1) if width > 1 else -level), rows_of(levels))
    assert not is_run(rows_of(levels), rows_of(level)) or before == after == 0


def test_whole_numbers_are_apart_by_the_share_of_those_that_differ():
    masks = np.zeros((20, 100, 100), bool)
    masks[:, 20:80, 20:80] = True
    one_pixel = masks.copy()
    one_pixel[0, 0, 0] = True
    assert same(masks, one_pixel)
    masks[3, :30] = True
    assert not same(masks, masks[[0, 1, 3, 2, *range(4, 20)]])


def test_the_first_row_does_not_change_places_with_the_last():
    """As two swapped channels do; few places are no matter of near-equal scores either, if they are few of many."""
    rows = tensor(400, 6)
    order = np.arange(400)
    for far, near in ((399, False), (60, False), (30, True)):
        swapped = order.copy()
        swapped[[0, far]] = swapped[[far, 0]]
        assert same_rows(rows_of(rows), rows_of(rows[swapped]), nearby=True) == near
        assert same_rows(rows_of(rows), rows_of(rows[swapped]))


def test_places_in_a_long_list_are_not_the_same_because_they_are_near():
    """Indices of a score map whose last two axes were swapped: off by less than two hundredths of the largest."""
    h, w, a = np.unravel_index(np.random.default_rng(0).permutation(15_360)[:200], (64, 80, 3))
    right, wrong = (h * 80 + w) * 3 + a, (h * 3 + a) * 80 + w
    assert distance(fingerprint(right), fingerprint(wrong)) > TOLERANCE
    assert distance(fingerprint(right), fingerprint(right.reshape(1, -1))) == 0
    one = right.copy()
    one[7] += 1
    assert distance(fingerprint(right), fingerprint(one)) > TOLERANCE


@settings(max_examples=40)
@given(st.integers(5, 40), st.integers(2000, 16_000), st.integers(0, 99))
def test_of_a_mask_the_rows_that_are_set_count_and_not_the_many_that_are_not(chosen, count, seed):
    """As NMS leaves it: with another threshold it keeps as many boxes, in other places."""
    generator = np.random.default_rng(seed)
    places = np.sort(generator.choice(count - 1, chosen, replace=False))

    def mask(set_: np.ndarray) -> np.ndarray:
        array = np.zeros((1, count, 1), np.float32)
        array[0, set_] = 1
        return array

    own = rows_of(mask(places))
    assert same_rows(own, rows_of(mask(places)))
    assert same_rows(own, rows_of(mask(places + 1)))
    assert not same_rows(own, rows_of(mask(places // 4)))  # the first quarter's, for the most part
    assert same_rows(rows_of(mask(places[:0])), rows_of(mask(places[:0])))


def test_numbers_whose_squares_float32_cannot_hold_are_told_apart():
    """As -2**63 is, which ONNX Runtime makes of a NaN where a whole number is asked for."""
    levels = np.random.default_rng(0).integers(0, 4, 200)
    broken = np.where(levels, levels, -(2**63))  # in the same order
    assert not same(levels, broken)
    assert not same_rows(rows_of(levels), rows_of(broken))
    assert same(broken, broken.reshape(1, -1))
    assert same_rows(rows_of(broken), rows_of(broken))
