"""What a search may try, and how each mistake in it is answered before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import FixedTrial

from promptwise.errors import PromptwiseError
from promptwise.search.space import read_space

TASK = {"task": "topics13"}


def test_a_space_reads_values_and_ranges() -> None:
    """Values are converted as those of flags are; a range of whole numbers has whole ends."""
    space = read_space(
        {**TASK, "strategy": "shared"},
        ["lr=loguniform:1e-4:1e-1", "length=uniform:4:32", "--batch-size=8,16.0", "half=true,false"],
    )
    found = {one.name: one for one in space.dimensions}
    assert (found["lr"].low, found["lr"].high, found["lr"].log) == (1e-4, 1e-1, True)
    assert (found["length"].low, found["length"].high, found["length"].log) == (4, 32, False)
    assert isinstance(found["length"].low, int)
    assert found["batch_size"].choices == (8, 16)
    assert found["half"].choices == (True, False)


def test_a_setting_takes_part_only_where_it_changes_something() -> None:
    """The network of the encoder and K are asked of the trials alone that have them, whatever order they stand in."""
    space = read_space({**TASK, "read_tokens": 8}, ["length=8,16", "encoder=rnn,mlp", "strategy=encoder,shared,none"])
    every = {"length": 16, "encoder": "mlp"}
    encoder = space.sampled(FixedTrial({**every, "strategy": "encoder"}))
    assert (encoder.strategy, encoder.encoder, encoder.length, encoder.read_tokens) == ("encoder", "mlp", 16, 8)
    shared = space.sampled(FixedTrial({"length": 16, "strategy": "shared"}))
    assert (shared.strategy, shared.length, shared.read_tokens) == ("shared", 16, None)
    assert space.sampled(FixedTrial({"strategy": "none"})).strategy == "none"


def test_the_most_epochs_are_those_of_any_trial() -> None:
    """Hyperband's budget is the greatest that a trial may have, in whole epochs."""
    assert read_space({**TASK, "epochs": 2.5}, ["lr=uniform:0.1:0.2"]).most_epochs == 3
    assert read_space(TASK, ["epochs=2,9,4"]).most_epochs == 9


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ([], ["--space is missing", "lr=loguniform"]),
        (["lenght=8,16"], ["'lenght'", "Did you mean 'length'?"]),
        (["lr"], ["'lr'", "no setting with its values"]),
        (["length=8"], ["one value", "--length 8"]),
        (["length=8,8"], ["twice"]),
        (["length=8,many"], ["--length", "be a whole number", "'many'"]),
        (["length=8,5000"], ["--length is 5000", "4096"]),
        (["length=uniform:0:8"], ["--length is 0", "1"]),
        (["lr=loguniform:0:0.1"], ["above 0", "uniform"]),
        (["lr=loguniform:0.1:0.01"], ["rise", "0.1 is not below 0.01"]),
        (["lr=loguniform:0.1"], ["two ends"]),
        (["lr=uniform:nan:1"], ["'nan'"]),
        (["lr=lognormal:0.1:1"], ["'lognormal'", "uniform and loguniform"]),
        (["strategy=uniform:1:2"], ["--strategy", "no number"]),
        (["strategy=encoder,sharde"], ["'sharde'", "'shared'"]),
        (["lr=0.1,0.2", "lr=uniform:0.1:0.2"], ["lr is given twice"]),
        (["seed=1,2", "shots=2,4"], ["shots", "other rows"]),
        (["task=topics13,rte"], ["--task", "other rows"]),
        (["threads=1,2"], ["--threads", "no score"]),
        (["epochs=2,4"], ["--epochs 3 is given"]),
        (["strategy=shared,none", "encoder=rnn,mlp"], ["encoder=rnn,mlp", "nothing in any trial"]),
        (["base=prompt,prefix"], ["--table-rank", "leave it out"]),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_the_way_out(space: list[str], says: list[str]) -> None:
    """One line names the setting, the value and what to do."""
    fixed: dict[str, Any] = {**TASK, "epochs": 3}
    if space == ["base=prompt,prefix"]:
        fixed |= {"strategy": "shared", "table_rank": 3}
    with pytest.raises(PromptwiseError) as caught:
        read_space(fixed, space)
    assert "\n" not in str(caught.value)
    for word in says:
        assert word in str(caught.value)


def test_rows_that_a_seed_draws_are_the_same_for_all_trials() -> None:
    """Few-shot rows are drawn by the seed, so that seeds cannot be compared by them."""
    with pytest.raises(PromptwiseError, match="other rows in each trial"):
        read_space({**TASK, "shots": 4}, ["seed=1,2"])
