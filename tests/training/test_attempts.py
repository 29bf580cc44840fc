"""All ranks of a run are one attempt."""

from pathlib import Path

import pytest

from sfv.training.attempts import claim
from tests.training.make import Data
from tests.training.rank_jobs import Run, shared_attempt
from tests.training.ranks import on_ranks


@pytest.mark.slow
def test_every_rank_knows_the_attempt_that_rank_0_claimed_and_stops_when_it_is_overtaken(
    data: Data, tmp_path: Path
) -> None:
    """Rank 1 deletes files of its own: without the number it would go on deleting a newer attempt's."""
    folder = tmp_path / "run"
    folder.mkdir()
    assert claim(folder).number == 1  # a start that was killed
    ranks = on_ranks(2, shared_attempt, tmp_path / "out", Run(data, "ddp", 2, 1, folder))
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert [rank["number"] for rank in ranks] == [2, 2]
    for rank in ranks:
        assert len(rank["refusals"]) == 2
        assert all("attempt 3 has taken this run over, so attempt 2" in r for r in rank["refusals"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"attempts", "of-rank-0.ckpt", "of-rank-1.ckpt"}
    assert len(list((folder / "attempts").iterdir())) == 3, "only rank 0 claims"
