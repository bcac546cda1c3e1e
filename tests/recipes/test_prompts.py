"""Prompts: which template an image gets, and where class names and templates come from."""

import numpy as np
import pytest

from dmkd.recipes.class_names import class_names_from, classes_written_alike, first_synonym, names_sha256
from dmkd.recipes.prompts import Wording, parse_templates
from dmkd.recipes.randomness import image_seeds
from dmkd.stores import UsageError

NAMES = ("tench, Tinca tinca", "goldfish", "crane", "Crane, machine")


def prompts_of(ids, templates=("a {}", "the {}", "one {}"), seed=0):
    wording = Wording(NAMES, templates, None, seed)
    return wording.prompts(np.asarray(ids) % len(NAMES), image_seeds(seed, np.asarray(ids)))


def test_a_prompt_is_a_template_with_the_first_synonym():
    wording = Wording(NAMES, ("a {}, {{drawn}}, yes a {}",), None, 0)
    assert wording.prompts([0, 3], [7, 8]) == ["a tench, {{drawn}}, yes a tench", "a Crane, {{drawn}}, yes a Crane"]


def test_templates_are_drawn_in_proportion_and_for_each_image_alone():
    prompts = prompts_of(range(9000))
    counts = [sum(prompt.startswith(word) for prompt in prompts) for word in ("a ", "the ", "one ")]
    assert sum(counts) == 9000 and all(abs(count - 3000) < 150 for count in counts)
    assert prompts_of([8000, 17]) == [prompts[8000], prompts[17]]
    assert prompts_of(range(100), seed=1) != prompts[:100]
    twice = prompts_of(range(9000), ("a {}", "the {}", "the {}"))
    assert abs(sum(prompt.startswith("the ") for prompt in twice) - 6000) < 150


def test_templates_are_the_same_ones_on_every_machine():
    words = [prompt.split()[0] for prompt in prompts_of(range(12))]
    assert words == ["one", "the", "a", "the", "a", "the", "a", "the", "a", "a", "one", "one"]


def test_templates_come_from_the_command_line_and_from_files(tmp_path):
    (tmp_path / "more.txt").write_text("a sketch of a {}\n\n  the {}  \n")
    assert parse_templates(["a {}", f"@{tmp_path / 'more.txt'}"]) == ("a {}", "a sketch of a {}", "the {}")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a photo", r"--prompt 'a photo' lacks {}"),
        ("@nowhere.txt", "nowhere.txt can't be read"),
        ("@empty", "no template"),
    ],
)
def test_templates_that_can_not_be_are_refused(tmp_path, monkeypatch, prompt, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match=message):
        parse_templates([prompt])


def test_imagenets_names_are_timms():
    names = class_names_from("imagenet")
    assert len(names) == 1000 and first_synonym(names[0]) == "tench" and names[207] == "golden retriever"


def test_class_names_come_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("cat, tabby\ndog\n")
    assert class_names_from(str(tmp_path / "names.txt")) == ("cat, tabby", "dog")
    (tmp_path / "names.txt").write_text("cat\n, dog\n")
    with pytest.raises(UsageError, match="line 2 of .* has no name before its first comma"):
        class_names_from(str(tmp_path / "names.txt"))


def test_class_names_have_a_hash_of_their_own():
    assert len({names_sha256(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5


def test_classes_of_one_first_name_are_found():
    assert classes_written_alike(NAMES) == [(2, 3)] and classes_written_alike(NAMES[:3]) == []
