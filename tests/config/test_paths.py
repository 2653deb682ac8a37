import pytest

from skinkd.config.paths import place_below

PATHS = {"data_dir": "/data", "output_dir": "/out", "cache_dir": "/out/cache", "other": None}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("/data", ("data_dir", "")),
        ("/data/ham/a.csv", ("data_dir", "/ham/a.csv")),
        ("/out/x", ("output_dir", "/x")),
        ("/out/cache/x", ("cache_dir", "/x")),  # the inner folder, though the outer one is named first
        ("/database", None),
        ("data/x", None),
        (None, None),
        (3, None),
    ],
)
def test_a_place_is_told_by_its_innermost_folder(value: object, place: tuple[str, str] | None) -> None:
    assert place_below(value, PATHS) == place
    assert place_below(value, dict(reversed(PATHS.items()))) == place
