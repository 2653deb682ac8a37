"""Which classes of two datasets mean one class: the table of a command, and the stored tables."""

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.data.ham10000_folder import CLASSES as HAM
from skinkd.data.isic2019 import CLASSES as ISIC
from skinkd.data.medmnist_sets import SETS
from skinkd.errors import UserError
from skinkd.inference.other_data import match_classes, stored_class_maps

MAP = {
    "akiec": ["akiec", "AK", "SCC"],
    **{name: [name, name.upper()] for name in ("bcc", "bkl", "df", "mel", "nv", "vasc")},
}


def composed(verb: str, *words: str) -> dict[str, Any]:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return OmegaConf.to_container(compose(verb, overrides=list(words)), resolve=True)  # type: ignore[return-value]


def test_both_ways_of_the_class_table() -> None:
    to_ham = match_classes(ISIC, HAM, class_map=MAP, leave_out=[])
    assert to_ham.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert to_ham.of_run == (0, 1, 2, 3, 4, 5, 0, 6)  # AK and SCC are one
    assert to_ham.of_data == tuple(range(7))
    to_isic = match_classes(HAM, ISIC, class_map=MAP, leave_out=[])
    assert to_isic.of_run == tuple(range(7)) and to_isic.of_data == (0, 1, 2, 3, 4, 5, 0, 6)
    same = match_classes(HAM, HAM, class_map={}, leave_out=["nv"])
    assert same.of_data == (0, 1, 2, 3, 4, None, 6) and same.classes == HAM
    fewer = match_classes(HAM, ("mel", "nv"), class_map={}, leave_out=[])
    assert fewer.classes == HAM and fewer.of_data == (4, 5)


@pytest.mark.parametrize(
    ("run", "data", "class_map", "leave_out", "words"),
    [
        (HAM, ISIC, {}, [], r"class 'AK' of the data .*'\+class_map\.akiec=\[akiec,AK\]' .*leave_out=\[AK\]"),
        (HAM, ISIC, {"a": ["AK"], "b": ["AK"]}, [], "'AK' under 'a' and 'b'"),
        (HAM, HAM, {}, ["nevus"], "leave_out=nevus"),
        (HAM, ("melanoma", "nv"), {}, [], r"as in '\+class_map\.akiec=\[akiec,melanoma\]' for 'akiec'"),
        (("in situ", "nv"), ("mel (is)", "nv"), {}, [], r"'\+class_map\.in_situ=\[in situ,\"mel \(is\)\"\]' for"),
    ],
)
def test_classes_that_do_not_meet(run: Any, data: Any, class_map: Any, leave_out: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        match_classes(run, data, class_map=class_map, leave_out=leave_out)


def test_a_stored_class_map_is_proposed_where_it_is_of_both_datasets() -> None:
    data, run = composed("evaluate", "data=isic2019"), composed("train", "data=ham10000")
    assert stored_class_maps(data, run) == ["isic2019_ham10000"] == stored_class_maps(data, None)
    assert stored_class_maps(run, composed("train", "data=medmnist")) == ["dermamnist_ham10000"]
    assert stored_class_maps(data, composed("train", "data=synthetic")) == []
    assert stored_class_maps(composed("evaluate", "data=folder", "data.root=x"), run) == []
    with pytest.raises(UserError, match=r"for 'akiec', give class_map=isic2019_ham10000, or leave_out=\[AK\]"):
        match_classes(HAM, ISIC, class_map={}, leave_out=[], stored=stored_class_maps(data, run))


def test_a_class_table_from_the_command_line() -> None:
    config = composed(
        "evaluate", "+class_map.mel=[mel,melanoma]", "+class_map.nv=[nv,melanocytic nevi]", "+class_map.x=[0,1]"
    )
    meeting = match_classes(
        ("mel", "nv", "0"), ("melanoma", "melanocytic nevi", "1"), class_map=config["class_map"], leave_out=[]
    )
    assert meeting.of_data == (0, 1, 2)


@pytest.mark.parametrize(
    ("name", "sides"),
    [("isic2019_ham10000", (ISIC, HAM)), ("dermamnist_ham10000", (SETS["dermamnist"].classes, HAM))],
)
def test_every_name_of_a_class_table_is_on_one_side_and_all_of_both_are_there(name: str, sides: Any) -> None:
    table = composed("evaluate", f"class_map={name}")["class_map"]
    named = [one for names in table.values() for one in names]
    assert sorted(named) == sorted(one for side in sides for one in side)
    for run, data in (sides, sides[::-1]):
        meeting = match_classes(run, data, class_map=table, leave_out=[])
        assert set(meeting.of_run) == set(range(7)) == set(meeting.of_data)


def test_dermamnist_numbers_its_classes_as_ham10000_orders_its_own() -> None:
    """MedMNIST took its labels from HAM10000's dx in alphabetical order, so that place and meaning must agree."""
    table = composed("evaluate", "class_map=dermamnist_ham10000")["class_map"]
    assert [table[name] for name in HAM] == [
        [ham, derma] for ham, derma in zip(HAM, SETS["dermamnist"].classes, strict=True)
    ]
