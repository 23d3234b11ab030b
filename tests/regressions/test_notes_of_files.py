"""What files say that a user should know is said once, with the first file and how many more have it."""

from anyband.rasters.reader import said_once


def test_a_note_of_several_files_is_said_once_with_the_first_of_them() -> None:
    found = [("a.tif", ["x is ignored", "y is taken"]), ("b.tif", ["x is ignored"]), ("c.tif", ["x is ignored"])]

    assert said_once(found) == ("x is ignored ('a.tif' and 2 more)", "y is taken ('a.tif')")


def test_of_files_without_notes_nothing_is_said() -> None:
    assert said_once([("a.tif", ())]) == ()
