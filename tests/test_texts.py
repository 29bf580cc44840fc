"""Text of others: read, matched and printed in one way."""

import pytest

from sfv.texts import find_file, find_name, look_up, printable, read_lines, read_text

NFC, NFD = "caf\u00e9", "cafe\u0301"
NOT_ENDS = "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", ["", "end"])
def test_lines_end_at_line_ends_alone(tmp_path, end, mark, last):
    path = tmp_path / "x.txt"
    path.write_bytes(mark + end.join([NOT_ENDS, "", "two", last]).encode())
    assert read_lines(path) == [NOT_ENDS, "", "two", *([last] if last else [])]


def test_what_is_not_utf8_is_named_with_its_byte(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"abc\xe9def")
    with pytest.raises(ValueError, match=r"x\.txt is not UTF-8 text: byte 3 is 0xe9; save it as"):
        read_text(path)
    path.write_bytes("walk".encode("utf-16"))
    with pytest.raises(ValueError, match=r"byte 0 is 0xff \(it looks like UTF-16\)"):
        read_text(path)


def test_names_match_by_characters_before_letters():
    assert find_name(NFC, [NFD]) == NFD
    assert find_name(NFC, [NFD, NFC]) == NFC
    assert find_name("cafe", [NFD, NFC]) is None
    two = "\u1eb9\u0302", "e\u0323\u0302"  # of one letter with two marks, neither composed
    assert find_name("\u1ec7", two) is None, "two candidates are no answer"


def test_values_are_looked_up_in_order_and_what_is_missing_is_sorted():
    known = {"caf\u00e9": 1, "cafe\u0301": 2, "n\u00e9": 3}
    assert look_up(["ne\u0301", "cafe\u0301", "caf\u00e9", "ne\u0301"], known) == ([3, 2, 1, 3], [])
    assert look_up(["z", "n\u00e9", "a", "z"], known) == ([3], ["a", "z"])


def test_a_file_is_found_in_either_form(tmp_path):
    (tmp_path / NFD / "in").mkdir(parents=True)
    (tmp_path / NFD / "in" / f"{NFC}.mp4").touch()
    assert find_file(tmp_path, f"{NFC}/in/{NFD}.mp4").is_file()
    assert find_file(tmp_path, "none/x") == tmp_path / "none" / "x"
    assert find_file(tmp_path, str(tmp_path / "y")) == tmp_path / "y"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("walk é \u8d70 [1]*", "walk é \u8d70 [1]*"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\u202eb\u200b\u2028", r"a\u202eb\u200b\u2028"),
        ("no utf-8: \udcff", r"no utf-8: \udcff"),
    ],
)
def test_a_terminal_obeys_nothing_in_a_name(name, shown):
    assert printable(name) == shown
    assert (
        printable(f"{name}\u2028", keep="\u2028") == shown.replace("\\u2028", "\u2028") + "\u2028"
    )
