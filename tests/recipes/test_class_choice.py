"""Which classes ``--classes`` means, and where classes of one list stand in another."""

import pytest

from dmkd.recipes.class_choice import parse_classes
from dmkd.recipes.class_list import ClassList, imagenet_classes
from dmkd.stores import UsageError

IMAGENET = imagenet_classes()
SOME = ClassList(("tench, Tinca tinca", "crane, bird", "crane", "sand_viper, viper", "grass snake, viper", "n07"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n01440764", (0,)),
        ("n02012849, n03126707", (134, 517)),
        ("goldfish,Goldfinch,golden_retriever", (1, 11, 207)),
        ("n01440764,5-7,hen", (0, 5, 6, 7, 8)),
    ],
)
def test_imagenets_classes_have_wordnet_ids(text, expected):
    assert parse_classes(text, IMAGENET) == expected


def test_the_generators_own_list_of_imagenet_may_differ_in_a_few_words():
    names = ["tench" if i == 0 else f"{name.split(',')[0].title()}, and so on" for i, name in enumerate(IMAGENET.names)]
    assert parse_classes("n01440764", ClassList(tuple(names))) == (0,)
    assert ClassList(tuple(reversed(names))).wnids is None and ClassList(tuple(names[:999])).wnids is None


@pytest.mark.parametrize("mark", ["@", ""])
def test_a_file_has_one_a_line(tmp_path, mark):
    (tmp_path / "100.txt").write_text(
        "n01440764 tench\n\n5-7\nhen\n  American lobster, Northern lobster, Maine lobster, Homarus americanus\n"
    )
    assert parse_classes(f"{mark}{tmp_path / '100.txt'}", IMAGENET) == (0, 5, 6, 7, 8, 122)


def test_a_whole_name_comes_before_a_synonym():
    assert parse_classes("crane", SOME) == (2,) and parse_classes("CRANE", SOME) == (2,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("viper", r"'viper' may be class 3 or 4: name it by its number\.$"),
        ("crane,2", r"names class 2 \(crane\) twice: 'crane' and '2'\.$"),
        ("0-3,1", r"names class 1 \(crane\) twice: '0-3' and '1'\.$"),
        ("sand vipers", r"'sand vipers' is not a class id, .*; did you mean sand_viper.*\?$"),
        ("zzz", r"'zzz' is not a class id, range or class name of this generator\.$"),
        ("n01440764", r"'n01440764' is not a class id"),
        ("@no/such/file.txt", r"^--classes: no/such/file\.txt can't be read: No such file or directory\.$"),
        ("100.txt", r"^--classes: 100\.txt can't be read: No such file or directory\.$"),
        (", ,", r"^--classes names no class\.$"),
    ],
)
def test_what_can_not_be_is_told_in_a_sentence(text, message):
    with pytest.raises(UsageError, match=message):
        parse_classes(text, SOME)


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(UsageError, match="names no class"):
        parse_classes(str(tmp_path / "none.txt"), SOME)


def test_classes_are_found_by_what_they_have_in_common():
    others = ClassList(("Grass_Snake", "tinca tinca", "crane", "viper", "something else"))
    assert others.places_in(SOME) == [4, 0, 2, None, None]
    assert ClassList(("grass snake", "grass_snake")).places_in(SOME) == [None, None], "which of them is it?"
    subset = IMAGENET.subset([134, 517])
    assert subset.names == ("crane", "crane") and subset.places_in(IMAGENET) == [134, 517]
    assert IMAGENET.subset([517]).places_in(subset) == [1]
    assert ClassList(("hen", "Goldfish, Carassius auratus")).wnids == ("n01514859", "n01443537")
    assert ClassList(("hen", "crane")).wnids is None and ClassList(("hen", "goldfish")).wnids is None
    assert ClassList(("n03126707", "n99999999")).places_in(IMAGENET) == [517, None], "names that are WordNet ids"
