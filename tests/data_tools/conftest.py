from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.collect import doom
from data_tools.collect.doom_engine import Engine, open_engine
from data_tools.collect.doom_walks import ACTIONS
from data_tools.collect.runner import collect

RETURN = doom.Settings("test", "return", 7, 32, 0, ("MAP05", "MAP15"), ACTIONS)
EXPLORE = doom.Settings("train", "explore", 6, 32, 0, ("MAP01", "MAP16"), ACTIONS[:4])


@pytest.fixture(scope="session")
def return_walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four there-and-back walks through two test levels, collected by the command itself."""
    folder = tmp_path_factory.mktemp("return")
    collect(RETURN, folder, 4)
    return folder


@pytest.fixture(scope="session")
def explore_walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    collect(EXPLORE, folder, 4)
    return folder


@pytest.fixture(scope="session")
def surveyor() -> Iterator[Engine]:
    with open_engine(survey=True) as engine:
        yield engine


@pytest.fixture(scope="session")
def camera() -> Iterator[Engine]:
    with open_engine() as engine:
        yield engine
