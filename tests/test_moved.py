import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from sfv.moved import MOVED, current_names
from sfv.run_folder import first_difference


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_objects_of_the_new_one_and_says_so(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    new = import_module(MOVED[old])
    with pytest.warns(FutureWarning, match=f"{old} is now {MOVED[old]}"):
        found = import_module(old)
    public = [name for name in vars(new) if not name.startswith("_")]
    assert all(getattr(found, name) is getattr(new, name) for name in public)


def test_a_module_that_never_was_stays_unknown():
    assert find_spec("sfv.models.nothing") is None


def test_a_run_of_before_the_move_is_the_same_run():
    old = "class_path: sfv.models.denoiser.VideoUNet\n"
    new = "class_path: sfv.backbones.video_unet.VideoUNet\n"
    assert current_names(old) == new
    assert first_difference(old, new) == "" != first_difference(old, new.replace("VideoUNet", "X"))
