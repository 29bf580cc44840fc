import pytest

from sfv.models import model_folder
from sfv.models.model_folder import (
    ACTIONS,
    INVERSE_FILE,
    SHOWN,
    find_example,
    find_inverse,
    find_model,
)


def a_model(folder):
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    return folder


def test_a_model_is_found_by_its_folder_and_by_its_run(tmp_path):
    model = a_model(tmp_path / "run" / "model")
    assert find_model(model) == find_model(str(tmp_path / "run")) == model


def test_the_name_of_the_shipped_one_gives_way_to_a_folder(tmp_path, monkeypatch):
    shipped = a_model(tmp_path / "package" / "model")
    monkeypatch.setitem(model_folder.SHIPPED, "reference", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert find_model("reference") == shipped
    own = a_model(tmp_path / "reference")
    assert find_model("reference").resolve() == own


def test_no_model_is_said_with_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no world model \(no model\.json\); give"):
        find_model(tmp_path)


def test_an_inverse_model_is_found_alike(tmp_path, monkeypatch):
    monkeypatch.setitem(model_folder.SHIPPED, "reference", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="reference holds no inverse dynamics model"):
        find_inverse("reference")
    for folder in (tmp_path / "inverse", tmp_path / "run" / "model"):
        folder.mkdir(parents=True)
        (folder / INVERSE_FILE).touch()
    assert find_inverse("reference") == tmp_path / "inverse"
    assert find_inverse(tmp_path / "run") == tmp_path / "run" / "model"


def test_an_example_is_whole_or_none(tmp_path):
    model = a_model(tmp_path / "model")
    (tmp_path / SHOWN).touch()
    assert find_example(model) is None
    (tmp_path / ACTIONS).touch()
    assert find_example(model) == (tmp_path / SHOWN, tmp_path / ACTIONS)
