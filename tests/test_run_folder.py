import pytest

from sfv.run_folder import CONFIG, open_run_folder

BEFORE = "data: {cache_mb: 1000, lr: 0.5, sizes: [1, 2]}\nname: '1000'\n"


def test_numbers_written_in_another_way_are_the_same_run(tmp_path):
    open_run_folder(tmp_path, BEFORE)
    written = (tmp_path / CONFIG).read_text()
    again = "data: {cache_mb: 1000.0, lr: 0.5, sizes: [1.0, 2]}\nname: '1000'\n"
    open_run_folder(tmp_path, again)
    assert (tmp_path / CONFIG).read_text() == written == BEFORE


@pytest.mark.parametrize(
    ("given", "other"),
    [("1000", "1000.5"), ("0.5", "5"), ("[1, 2]", "[1, true]"), ("'1000'", "1000")],
)
def test_other_numbers_are_another_run(tmp_path, given, other):
    open_run_folder(tmp_path, BEFORE)
    with pytest.raises(FileExistsError, match="belongs to another run"):
        open_run_folder(tmp_path, BEFORE.replace(given, other))
