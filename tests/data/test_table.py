import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.data.table import ImageTable, UnlabelledTable, class_labels, listing, read_csv
from skinkd.errors import UserError

CLASSES = ("mel", "nv")


def frame(ids: list[str], labels: list[int] | None = None) -> pd.DataFrame:
    labels = labels if labels is not None else [0] * len(ids)
    return pd.DataFrame({"image_id": ids, "path": ids, "label": labels, "group": ids})


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "metadata.csv"
    path.write_bytes(data)
    return path


def test_rows_are_sorted_typed_and_keep_extra_columns() -> None:
    given_frame = frame(["b", "a", "c"], [1, 0, 1]).assign(official_split=["x", "y", "z"])
    given_frame["label"] = given_frame["label"].astype("int8")
    given_frame.index = pd.Index([7, 7, 3])
    table = ImageTable("t", CLASSES, given_frame)
    assert table.frame["image_id"].tolist() == ["a", "b", "c"]
    assert table.frame["official_split"].tolist() == ["y", "x", "z"]
    assert table.frame["label"].tolist() == [0, 1, 1]
    assert table.frame["label"].dtype == np.int64
    assert table.frame.index.tolist() == [0, 1, 2]
    assert given_frame["image_id"].tolist() == ["b", "a", "c"]  # the caller's frame is left alone
    assert len(table) == 3


def test_a_table_without_labels_keeps_nothing_that_could_be_taken_for_one() -> None:
    pictures = UnlabelledTable("t", frame(["b", "a", "c"], [1, 0, 1]))
    assert pictures.frame.to_dict("list") == {"image_id": ["a", "b", "c"], "path": ["a", "b", "c"]}
    assert pictures.frame.index.tolist() == [0, 1, 2] and len(pictures) == 3
    assert len(UnlabelledTable("t", pictures.frame)) == 3
    for rows, words in ((frame([]), "the dataset 't' has no images"), (frame(["a", "a"]), r"1 image ids .*\(a\)")):
        with pytest.raises(UserError, match=words):
            UnlabelledTable("t", rows)
    with pytest.raises(UserError, match="'t' has no column path"):
        UnlabelledTable("t", pictures.frame[["image_id"]])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (frame([]), ["'t'", "no images"]),
        (frame(["a", "b"]).drop(columns="group"), ["'t' has no column group"]),
        (frame(["a", "b"]).assign(label=["nv", "mel"]), ["'t' has labels that are no whole numbers"]),
        (frame(["a", "b", "a", "a"]), ["1 image ids", "(a)", "more than once"]),
        (frame(["a", "b"], [0, 2]), ["[2]", "2 classes"]),
        (frame(["a", "b"], [0, -1]), ["[-1]", "2 classes"]),
    ],
)
def test_bad_rows_are_one_sentence(rows: pd.DataFrame, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        ImageTable("t", CLASSES, rows)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_class_labels_and_an_unknown_class_names_the_nearest() -> None:
    classes = ["akiec", "mel", "nv"]
    labels = class_labels(["nv", "akiec", "nv"], classes, source=Path("m.csv"), column="dx")
    assert labels.tolist() == [2, 0, 2] and labels.dtype == np.int64
    with pytest.raises(UserError, match=r"m\.csv: dx='mell' \(2 rows\).*did you mean 'mel'\?.*akiec, mel, nv"):
        class_labels(["nv", "mell", "mell"], classes, source=Path("m.csv"), column="dx")


def test_listing_counts_what_it_does_not_show() -> None:
    assert listing("abc") == "a, b, c"
    assert listing("abcdefg") == "a, b, c, d, e and 2 more"


EXPECTED = [{"id": "ISIC_1", "site": "pied, gauche"}, {"id": "ISIC_2", "site": "tête"}]


@pytest.mark.parametrize(
    "data",
    [
        'id,site\nISIC_1,"pied, gauche"\nISIC_2,tête\n'.encode(),
        'id,site\nISIC_1,"pied, gauche"\nISIC_2,tête'.encode(),
        '\ufeffid,site\r\nISIC_1,"pied, gauche"\r\nISIC_2,tête\r\n'.encode(),
        'id,site\rISIC_1,"pied, gauche"\rISIC_2,tête\r'.encode(),
        'id,site\nISIC_1,"pied, gauche"\nISIC_2,tête\n'.encode("latin-1"),
        'id,site\nISIC_1,"pied, gauche"\nISIC_2,tête\n'.encode("utf-16"),
        b'"id", "site"\n ISIC_1 , "pied, gauche"\n\n,\nISIC_2,"t\xc3\xaate"\n  \n',
        '"id"\t"site"\n"ISIC_1"\t"pied, gauche"\n"ISIC_2"\t"tête"\n'.encode(),
        "id;site\nISIC_1;pied, gauche\nISIC_2;tête\n".encode(),
    ],
    ids=["plain", "no-last-eol", "bom-crlf", "cr", "latin-1", "utf-16", "quotes-blanks", "tab", "semicolon"],
)
def test_read_csv_reads_every_usual_form_alike(tmp_path: Path, data: bytes) -> None:
    assert read_csv(write(tmp_path, data), required=["id", "site"]).to_dict("records") == EXPECTED


def test_read_csv_keeps_text_as_it_is_written(tmp_path: Path) -> None:
    rows = read_csv(write(tmp_path, b"id,age\n007,NA\nnan,1e3\nNone,\n"), required=["id"])
    assert rows["id"].tolist() == ["007", "nan", "None"]
    assert rows["age"].tolist() == ["NA", "1e3", ""]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["is empty"]),
        (b"\n \r\n", ["is empty"]),
        (b"id,site\n", ["no rows"]),
        (b"image,site\nx,y\n", ["no column 'id'", "needs id", "has image, site"]),
        (b"id,site,id\na,b,c\n", ["'id' more than once"]),
        (b"id,site\na,b\nc\n", ["line 3", "1 cells", "header has 2"]),
        (b"id,site\na,b,c\n", ["line 2", "3 cells"]),
        (b'id,site\na,"b\nc,d\n', ["line", "quotes"]),
        (b"id,site\na,b\n,d\n,e\n", ["line 3", "'id' is empty", "2 such rows"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ["no column 'id'"]),
    ],
)
def test_read_csv_names_the_file_and_what_is_wrong(tmp_path: Path, data: bytes, words: list[str]) -> None:
    path = write(tmp_path, data)
    with pytest.raises(UserError) as error:
        read_csv(path, required=["id"])
    assert str(path) in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_read_csv_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_csv(tmp_path / "absent.csv", required=["id"])


CELLS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12).map(str.strip)
NOT_EMPTY = CELLS.filter(bool)


@given(
    rows=st.lists(st.tuples(NOT_EMPTY, CELLS, CELLS), min_size=1, max_size=8),
    eol=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_read_csv_round_trips_any_text(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    eol: str,
    encoding: str,
    quoting: int,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=eol, quoting=quoting)
    writer.writerows([("id", "b", "c"), *rows])
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    assert list(read_csv(path, required=["id"]).itertuples(index=False, name=None)) == rows


@given(data=st.binary(max_size=200))
def test_read_csv_of_any_bytes_is_a_table_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    path.write_bytes(b"id,b\n1,2\n" + data)
    try:
        rows = read_csv(path, required=["id"])
    except UserError:
        return
    assert rows.columns.tolist() == ["id", "b"] and (rows["id"] != "").all()


@pytest.mark.parametrize("data", [b",,,\n", b'""\n', b";\n;\n", b"\xef\xbb\xbf,\n", b" , \r\n"])
def test_a_file_without_a_word_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="has only empty cells"):
        read_csv(write(tmp_path, data), required=["id"])


@given(data=st.binary(max_size=200))
def test_read_csv_of_bytes_without_a_header_is_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    path.write_bytes(data)
    with pytest.raises(UserError):
        read_csv(path, required=["no such column in two hundred bytes of noise"])


def test_a_number_names_a_column_too(tmp_path: Path) -> None:
    rows = read_csv(write(tmp_path, b"id,1\na,b\n"), required=["id", 1])  # type: ignore[list-item]
    assert rows["1"].tolist() == ["b"]
    with pytest.raises(UserError, match="has no column '2'"):
        read_csv(write(tmp_path, b"id,1\na,b\n"), required=[2])  # type: ignore[list-item]


def test_a_table_that_may_be_empty(tmp_path: Path) -> None:
    path = write(tmp_path, b"a,b\n")
    assert read_csv(path, required=["a"], may_be_empty=True).empty
    with pytest.raises(UserError, match="a header and no rows"):
        read_csv(path, required=["a"])


def test_read_csv_of_100k_rows(tmp_path: Path) -> None:
    body = "".join(f"ISIC_{i:07d},nv,x\r\n" for i in range(100_000))
    rows = read_csv(write(tmp_path, f"id,dx,z\r\n{body}".encode()), required=["id", "dx"])
    assert len(rows) == 100_000 and rows["id"].iloc[-1] == "ISIC_0099999"
