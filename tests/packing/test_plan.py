"""Plans: every algorithm, overflow rule and number of ranks keeps every token, once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw import packing
from bitlaw.ops.pack import ALGORITHMS

LENGTHS = st.lists(st.integers(1, 60), max_size=60)


def occupied(plan):
    """How many pieces lie on each place of each row; fails where one reaches out of its row."""
    on = np.zeros((plan.rows, plan.capacity), int)
    for row, start, length in zip(plan.row, plan.start, plan.length, strict=True):
        assert length >= 1 and start >= 0 and start + length <= plan.capacity
        on[row, start : start + length] += 1
    return on


@given(
    LENGTHS,
    st.integers(1, 40),
    st.sampled_from(ALGORITHMS),
    st.sampled_from(["drop", "split", "truncate"]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([1, 4]),
    st.sampled_from([1, 3]),
    st.sampled_from([None, 7]),
)
def test_no_token_is_lost_or_doubled_unsaid(
    lengths, capacity, algorithm, overflow, max_segments, align, ranks, seed
):
    if algorithm == "wrap":
        overflow = "split"
    plan = packing.plan(
        lengths,
        capacity,
        algorithm=algorithm,
        overflow=overflow,
        max_segments=max_segments,
        align=align,
        ranks=ranks,
        balance="l2",
        seed=seed,
    )
    assert (occupied(plan) <= 1).all()
    assert (plan.start % align == 0).all()
    assert plan.rows % ranks == 0
    if max_segments:
        assert np.bincount(plan.row, minlength=1).max() <= max_segments
    # Tokens of the concatenated sequences: what is in no row is what the rule says, to the token.
    times = np.zeros(sum(lengths), int)
    for source, length in zip(plan.source, plan.length, strict=True):
        times[source : source + length] += 1
    first = np.cumsum(lengths, dtype=int) - lengths
    kept = {
        "drop": lambda n: 0 if n > capacity else n,
        "split": lambda n: n,
        "truncate": lambda n: min(n, capacity),
    }
    for at, n in zip(first, lengths, strict=True):
        k = kept[overflow](n)
        assert (times[at : at + k] == 1).all() and (times[at + k : at + n] == 0).all()
    over = sum(n > capacity for n in lengths)
    assert plan.dropped == (over if overflow == "drop" else 0)
    assert plan.truncated == (over if overflow == "truncate" else 0)
    if algorithm != "wrap":
        assert plan.split == (over if overflow == "split" else 0)
    assert plan.lost == (times == 0).sum()
    # A piece belongs to the sequence its tokens are of.
    assert (np.searchsorted(first, plan.source, side="right") - 1 == plan.sequence).all()


def rows_of(plan):
    """The lengths in each row, from left to right."""
    order = np.lexsort((plan.start, plan.row))
    return [plan.length[order][plan.row[order] == r].tolist() for r in range(plan.rows)]


def test_every_algorithm_by_hand():
    lengths = [4, 7, 3, 6, 5, 1, 2]
    rows = lambda algorithm, **more: rows_of(packing.plan(lengths, 10, algorithm=algorithm, **more))
    assert rows("next_fit") == [[4], [7, 3], [6], [5, 1, 2]]
    assert rows("first_fit") == [[4, 3, 1, 2], [7], [6], [5]]
    assert rows("best_fit") == [[4, 6], [7, 3], [5, 1, 2]]
    assert rows("first_fit_decreasing") == [[7, 3], [6, 4], [5, 2, 1]]
    assert rows("best_fit_decreasing") == [[7, 3], [6, 4], [5, 2, 1]]
    assert rows("wrap", overflow="split") == [[4, 6], [1, 3, 6], [5, 1, 2]]
    assert rows("first_fit", max_segments=2) == [[4, 3], [7, 1], [6, 2], [5]]
    # Starts at multiples of 4: 4 takes 4, 7 takes 8 and leaves 2 of 10, 3 takes 4, ...
    aligned = packing.plan(lengths, 10, algorithm="first_fit", align=4)
    assert rows_of(aligned) == [[4, 3, 1], [7, 2], [6], [5]]
    assert aligned.start.tolist() == [0, 0, 4, 0, 0, 8, 8]


def best(lengths, capacity):
    """The fewest rows, by trying everything."""
    fewest = len(lengths)

    def place(i, room):
        nonlocal fewest
        if len(room) >= fewest:
            return
        if i == len(lengths):
            fewest = len(room)
            return
        for r in {room.index(x) for x in room if x >= lengths[i]}:
            place(i + 1, [*room[:r], room[r] - lengths[i], *room[r + 1 :]])
        place(i + 1, [*room, capacity - lengths[i]])

    place(0, [])
    return fewest


@given(st.lists(st.integers(1, 20), min_size=1, max_size=9))
def test_decreasing_plans_are_within_11_9_of_brute_force(lengths):
    lengths = sorted(lengths, reverse=True)
    fewest = best(lengths, 20)
    assert packing.plan(lengths, 20).rows <= 11 / 9 * fewest + 6 / 9
    bfd = packing.plan(lengths, 20, algorithm="best_fit_decreasing")
    assert -(-sum(lengths) // 20) <= fewest <= bfd.rows <= 11 / 9 * fewest + 4  # Johnson, 1974


@pytest.mark.parametrize("algorithm", ["first_fit_decreasing", "best_fit_decreasing"])
def test_30_000_lognormal_lengths_fill_99_7_percent(algorithm):
    lengths = np.random.default_rng(0).lognormal(6, 1, 30_000).clip(1, 2048).astype(int)
    plan = packing.plan(lengths, 2048, algorithm=algorithm)
    assert plan.fill >= 0.997
    assert plan.rows >= -(-lengths.sum() // 2048)
    assert (occupied(plan) <= 1).all()


def test_features_share_a_row_and_each_keeps_its_capacity():
    rng = np.random.default_rng(0)
    lengths = {"inputs": rng.integers(1, 65, 300), "targets": rng.integers(1, 17, 300)}
    capacity = {"inputs": 64, "targets": 20}
    for algorithm in ("next_fit", "first_fit", "best_fit", "first_fit_decreasing"):
        plans = packing.plan(lengths, capacity, algorithm=algorithm)
        assert list(plans) == ["inputs", "targets"]
        assert (plans["inputs"].row == plans["targets"].row).all()
        for name, plan in plans.items():
            assert plan.capacity == capacity[name] and (occupied(plan) <= 1).all()
    tokens = {name: np.arange(n.sum()) + 1 for name, n in lengths.items()}
    rows = packing.materialize(plans, tokens)
    for name in lengths:
        assert sorted(rows[name][rows[name] > 0]) == tokens[name].tolist()
        packing.verify(rows, name=name)


def test_ranks_share_every_step_evenly():
    rng = np.random.default_rng(0)
    lengths = rng.geometric(0.01, 2000).clip(1, 512)
    for balance, power in [("tokens", 1), ("l2", 2)]:
        options = {"algorithm": "next_fit", "ranks": 4, "balance": balance}
        plan = packing.plan(lengths, 512, **options, seed=3)
        cost = np.bincount(plan.row, plan.length.astype(float) ** power, minlength=plan.rows)
        steps = cost.reshape(-1, 4)
        # Each step waits for its dearest row; unsorted rows of the same plan for far more.
        wait = lambda steps: steps.max(1).sum() / steps.mean(1).sum()
        plain = packing.plan(lengths, 512, algorithm="next_fit", seed=3)
        cost = np.bincount(plain.row, plain.length.astype(float) ** power, minlength=plain.rows)
        unsorted = cost[: len(cost) // 4 * 4].reshape(-1, 4)
        assert wait(steps) < 1.02 < 1.1 < wait(unsorted)
        assert np.ptp(steps.sum(0)) <= steps.max()
    few = packing.plan([3, 3], 4, ranks=4)
    assert few.rows == 4 and sorted(few.row) == [0, 1]


def test_a_seed_shuffles_and_repeats():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    one, again, other = (packing.plan(lengths, 128, seed=s) for s in (1, 1, 2))
    assert (one.row == again.row).all() and (one.row != other.row).any()
    assert sorted(map(sorted, rows_of(one))) == sorted(map(sorted, rows_of(other)))


def test_grains_first_fit_gives_the_same_rows():
    grain = pytest.importorskip("grain", reason="the grain extra")
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 100, n) for n in rng.integers(1, 65, 120)]
    source = grain.MapDataset.source([{"tokens": s} for s in sequences])
    theirs = grain.experimental.FirstFitPackIterDataset(
        source.to_iter_dataset(),
        length_struct={"tokens": 64},
        num_packing_bins=120,
        shuffle_bins=False,
    )
    lengths = [len(s) for s in sequences]
    ours = packing.materialize(
        packing.plan(lengths, 64, algorithm="first_fit"), np.concatenate(sequences)
    )
    count = 0
    for r, row in enumerate(theirs):
        if not row["tokens_segment_ids"].any():
            continue  # grain gives its unused bins as well
        count += 1
        for name, array in row.items():
            np.testing.assert_array_equal(ours[name][r], array)
    assert count == len(ours["tokens"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([3], 8), {"overflow": "cut"}, "overflow must be error, drop, split or truncate"),
        (([3], 8), {"algorithm": "worst_fit"}, "algorithm must be one of next_fit, first_fit"),
        (([3], 8), {"algorithm": "wrap"}, "wrap splits sequences: overflow must be 'split'"),
        (([3], 8), {"max_segments": 0}, "max_segments must be at least 1, got 0"),
        (([3], 8), {"align": 0}, "align must be at least 1, got 0"),
        (([3], 8), {"ranks": 0}, "ranks must be at least 1, got 0"),
        (([3], 8), {"align": 1.5}, "align must be an integer, got 1.5"),
        (([3], 8), {"balance": "cost"}, "balance must be tokens or l2, got 'cost'"),
        (([3], 8), {"ranks": 2, "balance": "rows"}, "balance must be tokens or l2, got 'rows'"),
        (([3], 2**40), {}, "capacity must be in [1, 1073741823]"),
        (({"a": [3]}, 8), {}, "lengths and capacity must both map features"),
        (({"a": [3]}, {"b": 8}), {}, "must have the same features, got ['a'] and ['b']"),
        (({"a": [3], "b": [1, 2]}, {"a": 8, "b": 8}), {}, "as many in every feature, got {'a': 1"),
        (({"a": [9], "b": [1]}, {"a": 8, "b": 8}), {}, "lengths['a'] must be at most the capacity"),
        (({"a": [9], "b": [1]}, {"a": 8, "b": 8}), {"overflow": "split"}, "have one feature"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, options, message):
    with pytest.raises(ValueError) as error:
        packing.plan(*arguments, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ranks", [1, 4])
def test_no_lengths_give_no_rows(algorithm, ranks):
    plan = packing.plan([], 8, algorithm=algorithm, overflow="split", ranks=ranks, seed=0)
    assert plan.rows == 0 and plan.fill == 0 and plan.lost == 0
    assert packing.materialize(plan, np.array([], int))["tokens"].shape == (0, 8)


def test_a_plan_says_what_it_did():
    text = str(packing.plan([3, 20, 5], 8, overflow="truncate"))
    assert text == (
        "3 pieces in 2 rows of 8 tokens, fill 100.00%, 1 truncated, 12 of 28 tokens lost"
    )
