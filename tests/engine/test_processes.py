"""What processes tell each other in a step: gradients while the backward pass runs, and whether to stop."""

import pytest
import torch
from helpers.processes import gradients, results_of, votes

from tood.engine import stop_votes
from tood.engine.stop_votes import StopVotes


@pytest.mark.parametrize(
    ("number", "factor", "bucket_mb"), [(2, None, 64), (2, 0.3, 1e-5), (3, 0.3, 2e-4)], ids=str
)
def test_gradients_are_the_sum_over_processes(tmp_path, number, factor, bucket_mb):
    """To the bit, in buckets of any size; what no process has stays None."""
    found = results_of(number, gradients, tmp_path, number, factor, bucket_mb)
    for name in found[0]["summed"]:
        own = [each["apart"][name] for each in found]
        there = [grad if factor is None else grad * factor for grad in own if grad is not None]
        for each in found:
            if there:
                assert torch.equal(each["summed"][name], sum(there)), name
            else:
                assert each["summed"][name] is None
    assert found[0]["summed"]["unused"] is None
    assert [grad is None for grad in (each["apart"]["of_rank_0"] for each in found)] == [False] + [True] * (
        number - 1
    )


def test_gradients_travel_while_others_are_computed(tmp_path):
    (found, _) = results_of(2, gradients, tmp_path, 2, None, 1e-5)
    # A bucket a parameter, from the last layer on: its bias, then its weight ...
    sent = found["order"]
    assert len(sent) == 9
    assert sent[0] < sent[-1]


def test_all_processes_stop_at_the_same_iteration(tmp_path):
    """Within `SECONDS` and an iteration of the slowest; they seldom ask each other."""
    one, other = results_of(2, votes, tmp_path, 130, [0.001, 0.02])
    assert one == other
    assert one["together"]
    most = stop_votes.SECONDS / 0.02
    assert 130 <= one["stopped"] <= 131 + most
    assert len(one["asked"]) <= 6


def test_one_process_asks_in_each_iteration():
    said = False
    votes = StopVotes(lambda: said, torch.device("cpu"))
    assert not any(votes.agreed(False) for _ in range(5))
    said = True
    assert votes.leaves_wait()
    assert votes.agreed(False)


def test_a_wait_is_left_where_all_ask_or_after_some_patience(monkeypatch):
    """Elsewhere a process that left its images would leave the others with a gradient that is not whole."""
    monkeypatch.setattr(stop_votes, "get_world_size", lambda: 2)
    monkeypatch.setattr(stop_votes, "all_reduce", lambda vote, how: None)
    now = 0.0
    monkeypatch.setattr(stop_votes.time, "monotonic", lambda: now)
    said = False
    votes = StopVotes(lambda: said, torch.device("cpu"))
    now = 0.5
    assert not votes.agreed(False)  # half a second an iteration: four to the next vote
    said = True
    assert not votes.leaves_wait()
    assert [votes.agreed(False) for _ in range(3)] == [False] * 3
    assert votes.leaves_wait()
    said = False
    assert not votes.agreed(False)
    said = True
    now += stop_votes.PATIENCE + 1
    assert votes.leaves_wait()
    assert votes.agreed(True)
    assert not votes.together
