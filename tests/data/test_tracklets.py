"""Tracklets in the folders of MARS and LPW: what is read, and what is refused."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxfaces.data import miniature_tracklets, tracklets
from jaxfaces.data.errors import DataError

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("collections")
    for dataset in miniature_tracklets.DATASETS:
        miniature_tracklets.write(dataset, root / dataset)
    return root


def load(root, dataset, split, **options):
    given = {"image_size": 24} | options
    return tracklets.load(dataset, split, root / dataset, **given)


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dataset", miniature_tracklets.DATASETS)
def test_every_frame_of_every_tracklet_is_read_once(mini, dataset, split):
    found = load(mini, dataset, split)
    part = {"mars": f"bbox_{split}/**/*.jpg", "lpw": "pep_256x128/scen[23]/**/*.jpg"}
    pattern = part[dataset]
    if (dataset, split) == ("lpw", "test"):
        pattern = "pep_256x128/scen1/**/*.jpg"
    assert len(found.frames) == len(list((mini / dataset).glob(pattern)))
    assert (np.diff(found.frames.labels) >= 0).all()
    assert set(found.frames.labels) == set(range(len(found.names)))
    columns = found.read(np.arange(len(found.frames)))
    assert columns["image"].shape == (len(found.frames), 24, 24, 3)
    assert {columns[name].dtype for name in ("label", "camera", "tracklet")} == {
        np.dtype(np.int32)
    }


def test_mars_is_divided_and_asked_as_its_lists_say(mini):
    train, test = (load(mini, "mars", split) for split in SPLITS)
    assert set(train.people) == set(range(1, 9))
    assert set(test.people) == {-1, 0, *range(9, 17)}
    assert set(test.cameras) == {1, 2}
    assert test.gallery.all()  # those who ask are looked for too
    asks = [name for name, ask in zip(test.names, test.query) if ask]
    assert asks == [
        f"{p:04d}C{c}T000{t}" for p in range(9, 17) for c, t in ((1, 1), (2, 3))
    ]
    number = test.names.index("0012C2T0003")
    assert (test.people[number], test.cameras[number]) == (12, 2)


def test_lpw_asks_with_the_second_view_of_scene_one(mini):
    train, test = (load(mini, "lpw", split) for split in SPLITS)
    # Folder 1 of scene 2 and folder 1 of scene 3 are two people.
    assert len(set(train.people)) == len(set(test.people)) == 8
    assert not set(train.people) & set(test.people)
    assert min(*train.people, *test.people) == 1  # 0 is for distractors
    assert len(set(train.cameras)) == 6 and len(set(test.cameras)) == 3
    for name, query, gallery in zip(test.names, test.query, test.gallery):
        assert name.startswith("scen1/")
        assert query == (not gallery) == ("view2" in name)
    people = dict(zip(test.names, test.people))
    assert people["scen1/view1/3"] == people["scen1/view2/3"] == people["scen1/view3/3"]


def test_lpw_may_lie_without_its_inner_folder(mini):
    inner = tracklets.load("lpw", "test", mini / "lpw/pep_256x128", image_size=24)
    np.testing.assert_array_equal(inner.names, load(mini, "lpw", "test").names)


def test_chosen_tracklets_keep_their_numbers(mini):
    whole = load(mini, "mars", "train")
    part = tracklets.chosen(whole, whole.people == 3)
    columns = part.read(np.arange(len(part.frames)))
    assert set(columns["label"]) == {3}
    rows = np.flatnonzero(whole.people[whole.frames.labels] == 3)
    np.testing.assert_array_equal(columns["image"], whole.read(rows)["image"])


def test_frames_beyond_memory_are_read_on_demand(mini):
    held = load(mini, "mars", "test")
    read = load(mini, "mars", "test", memory_limit=0)
    assert held.frames.in_memory and not read.frames.in_memory
    rows = np.array([5, 0, 40])
    for name, column in held.read(rows).items():
        np.testing.assert_array_equal(column, read.read(rows)[name])


def test_a_damaged_frame_is_named_or_left_out(tmp_path):
    miniature_tracklets.write("mars", tmp_path, people=3)
    bad = tmp_path / "bbox_train/0002/0002C1T0001F002.jpg"
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(DataError, match=r"0002C1T0001F002\.jpg: .*on_bad_example=skip"):
        tracklets.load("mars", "train", tmp_path, image_size=24)
    found = tracklets.load(
        "mars", "train", tmp_path, image_size=24, on_bad_example="skip"
    )
    frames = len(list((tmp_path / "bbox_train").glob("*/*.jpg")))
    assert len(found.frames) == frames - 1 and found.frames.skipped == 1
    # A tracklet that is bad altogether is gone from the frames, the others stay.
    for path in bad.parent.glob("0002C1T0001F*.jpg"):
        path.write_bytes(b"")
    found = tracklets.load(
        "mars", "train", tmp_path, image_size=24, on_bad_example="skip"
    )
    gone = set(range(len(found.names))) - set(found.frames.labels)
    assert [found.names[number] for number in gone] == ["0002C1T0001"]


def test_frames_of_many_sizes_want_an_image_size(tmp_path):
    for i in range(2):
        picture(tmp_path / f"scen2/view1/1/{i}.png", (8, 8 + i))
    with pytest.raises(DataError, match=r"1\.png is .* choose --image_size"):
        tracklets.load("lpw", "train", tmp_path)


def damaged(folder, **files):
    """A miniature of MARS, some of whose lists are replaced."""
    miniature_tracklets.write("mars", folder, people=3)
    for name, content in files.items():
        path = folder / "info" / name.replace("__", ".")
        if content is None:
            path.unlink()
        elif isinstance(content, dict):
            scipy.io.savemat(path, content)
        else:
            path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test_name__txt": None}, r"test_name\.txt.* put the info of the MARS-eval"),
        ({"query_IDX__mat": None}, r"query_IDX\.mat, which says what is asked"),
        ({"query_IDX__mat": b"\x80\x04."}, r"query_IDX\.mat is not a MATLAB file"),
        ({"query_IDX__mat": {"query_IDX": [[0.0]]}}, r"must hold 1 … \d+, got 0 … 0"),
        ({"query_IDX__mat": {"query_IDX": [[1.5]]}}, "must hold whole numbers"),
        ({"query_IDX__mat": {"query_IDX": [[np.nan]]}}, "must hold numbers"),
        ({"query_IDX__mat": {"query_IDX": np.array([["a"]], object)}}, "hold numbers"),
        ({"query_IDX__mat": {"other": [[1]]}}, r"'query_IDX' must be a matrix.*other"),
        ({"tracks_test_info__mat": {"track_test_info": [[1, 2]]}}, "have 4 columns"),
        (
            {"tracks_test_info__mat": {"track_test_info": [[1, 10**6, -1, 1]]},
             "query_IDX__mat": {"query_IDX": [[1]]}},
            "the lines 1 … 1000000, test_name.txt has",
        ),
        (
            {"tracks_test_info__mat": {"track_test_info": [[1, 2, 5, 1]]},
             "query_IDX__mat": {"query_IDX": [[1]]}},
            "gives line 1 of test_name.txt, 00-1C1T0001F001.jpg, to person 5",
        ),
        (
            {"test_name__txt": b"../../0001C1T0001F001.jpg\n",
             "tracks_test_info__mat": {"track_test_info": [[1, 1, 1, 1]]},
             "query_IDX__mat": {"query_IDX": [[1]]}},
            "not named as MARS names frames",
        ),
    ],
)  # fmt: skip
def test_lists_that_are_not_those_of_mars_are_refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        tracklets.load("mars", "test", damaged(tmp_path, **files), image_size=24)


@pytest.mark.parametrize(
    ("file", "dataset", "split", "message"),
    [
        ("notes.txt", "mars", "train", r"bbox_train; extract bbox_train\.zip"),
        ("bbox_train/0001/picture.png", "mars", "train", "not named as MARS names"),
        ("bbox_train/0002/0001C1T0001F001.png", "mars", "train", "person 0002"),
        ("bbox_train/0001/notes.txt", "mars", "train", "holds no tracklets to train"),
        ("pictures/1.png", "lpw", "test", "no folders scen1, scen2 … in"),
        ("scen1/view2/1/1.png", "lpw", "train", "holds no tracklets to train"),
    ],
)
def test_other_folders_are_refused_by_name(tmp_path, file, dataset, split, message):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    if file.endswith("png"):
        picture(tmp_path / file)
    else:
        (tmp_path / file).write_text("")
    with pytest.raises(DataError, match=message):
        tracklets.load(dataset, split, tmp_path, image_size=8)


def test_a_missing_collection_says_where_it_is_looked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"mars; extract mars there, or give --data_dir"
    ):
        load(tmp_path, "mars", "train")


def test_nothing_in_a_list_is_unpickled(mini, monkeypatch):
    import pickle

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    load(mini, "mars", "test")


@pytest.mark.parametrize(
    "change", [{"dataset": "mras"}, {"people": 2}, {"people": 401}]
)
def test_what_cannot_be_written_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        miniature_tracklets.write(**({"dataset": "mars", "folder": tmp_path} | change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dataset", miniature_tracklets.DATASETS)
def test_a_miniature_depends_on_the_seed_alone(tmp_path, dataset):
    seen = [
        {
            path.relative_to(tmp_path / str(i)): path.read_bytes()
            for path in miniature_tracklets.write(
                dataset, tmp_path / str(i), people=3, seed=seed
            ).rglob("*.jpg")
        }
        for i, seed in enumerate((1, 1, 2))
    ]
    assert seen[0] == seen[1] != seen[2]
