import json

import pytest

from tests import golden


@pytest.mark.slow
def test_training_rollout_and_memory_give_the_numbers_that_they_gave(tmp_path):
    """Byte for byte on the machine that the file names; elsewhere up to rounding."""
    known = json.loads(golden.KNOWN.read_text())
    found = golden.run(tmp_path)
    same_machine = known["machine"] == golden.machine()
    for name, expected in known["numbers"].items():
        made = found[name]
        assert made["count"] == expected["count"], name
        assert made["mean"] == pytest.approx(expected["mean"], rel=2e-3, abs=2e-4), name
        assert made["norm"] == pytest.approx(expected["norm"], rel=2e-3), name
        if same_machine:
            assert made["sha256"] == expected["sha256"], f"{name} is not equal byte for byte"
