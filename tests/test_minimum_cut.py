"""The minimum cut against trying all cuts, and cast's islands against trying all choices."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from trtforge_plugins.precision.minimum_cut import INFINITE, Network

INNER = range(5)
EDGES = st.lists(
    st.tuples(st.sampled_from(["s", *INNER]), st.sampled_from(["t", *INNER]), st.integers(0, 9)),
    max_size=14,
)


def cost(edges, side):
    return sum(capacity for tail, head, capacity in edges if tail in side and head not in side)


@given(EDGES)
def test_the_cut_is_the_smallest_of_the_cheapest(edges):
    network = Network()
    for edge in edges:
        network.join(*edge)
    found = network.source_side("s", "t")
    every = [{"s", *inner} for size in range(6) for inner in combinations(INNER, size)]
    cheapest = min(cost(edges, side) for side in every)
    assert cost(edges, found) == cheapest
    seen = {"s", "t"} | {end for edge in edges for end in edge[:2]}
    smallest = set.intersection(*(side for side in every if cost(edges, side) == cheapest))
    assert found == smallest & seen


def test_what_is_joined_without_limit_stays_together():
    network = Network()
    network.join("s", "a", 3)
    network.join("a", "b", INFINITE)
    network.join("b", "t", 5)
    assert network.source_side("s", "t") == {"s"}
    network.join("s", "a", 9)
    assert network.source_side("s", "t") == {"s", "a", "b"}


def test_a_long_chain_needs_no_deep_recursion():
    network = Network()
    network.join("s", 0, 7)
    for number in range(20_000):
        network.join(number, number + 1, 7 if number != 10_000 else 1)
    network.join(20_000, "t", 7)
    assert len(network.source_side("s", "t")) == 10_002
