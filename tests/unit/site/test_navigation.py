import pytest
from morpheus_site.navigation import Group, PageMissing, navigate

GROUPS = [Group("Start", ("started",)), Group("API", ("api/index", "api/*/index"))]
NAMES = ["index", "started", "api/index", "api/auth/index", "api/auth/login", "api/chat/index", "api/chat/ask"]


def test_pages_are_in_the_order_of_the_list_and_below_the_index_of_their_folder() -> None:
    assert navigate(NAMES, GROUPS).in_order() == [
        ("", ["index"]),
        ("Start", ["started"]),
        ("API", ["api/index", "api/auth/index", "api/auth/login", "api/chat/index", "api/chat/ask"]),
    ]


def test_a_page_that_is_listed_and_not_there_stops_the_build() -> None:
    with pytest.raises(PageMissing, match="not there: started;"):
        navigate([name for name in NAMES if name != "started"], GROUPS)


def test_a_page_that_is_there_and_not_listed_stops_the_build() -> None:
    with pytest.raises(PageMissing, match="not listed: other"):
        navigate([*NAMES, "other"], GROUPS)


def test_a_site_without_a_first_page_stops_the_build() -> None:
    with pytest.raises(PageMissing, match="not there: index;"):
        navigate(NAMES[1:], GROUPS)


def test_a_partial_build_takes_what_is_there() -> None:
    built = navigate(["index", "api/auth/index", "other"], GROUPS, partial=True)
    assert built.in_order() == [("", ["index"]), ("API", ["api/auth/index"]), ("Not listed", ["other"])]
