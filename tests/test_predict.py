"""The predict command: a user's own images in, embeddings and neighbours out."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import jaxfaces
from jaxfaces import predict
from jaxfaces.data import images
from jaxfaces.tasks.retrieval import Retrieval


@pytest.fixture(scope="session")
def bare_run(tiny_run, tmp_path_factory):
    """The run without its checkpoints, read-only: what is left is what may be used."""
    folder = tmp_path_factory.mktemp("bare") / "run"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Seven images in a folder, the current directory being its parent."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    names = ["a.png", "b, c.png", 'd "e".png', "f\ng.png", "more/h.png", "ü.png"]
    for n, name in enumerate(names):
        pixels = rng.integers(0, 256, (20 + n, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    shutil.copy(tmp_path / "photos" / "a.png", tmp_path / "photos" / "z copy.png")
    return [f"photos/{name}" for name in [*names[:5], "z copy.png", "ü.png"]]


def run(workdir, *words, output="out"):
    return predict.main([f"--workdir={workdir}", f"--output={output}", *words])


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def embeddings(output="out"):
    with np.load(f"{output}/embeddings.npz", allow_pickle=False) as columns:
        return columns["embeddings"], columns["files"].tolist()


def reference(workdir, files, **how):
    """Unit embeddings one image at a time, by the public function alone."""
    trained = jaxfaces.load(workdir, **how)
    rows = []
    for file in files:
        pixels = images.load(images.Path(file), size=32)
        raw = np.asarray(trained.apply(trained.variables, {"image": pixels[None]}))[0]
        rows.append(raw.astype(np.float64) / np.linalg.norm(raw.astype(np.float64)))
    return np.array(rows)


def test_images_are_embedded_as_by_the_trained_function(bare_run, photos, capsys):
    assert run(bare_run, "photos") == 0
    found, files = embeddings()
    assert files == photos
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, reference(bare_run, photos), atol=1e-5)
    out = capsys.readouterr().out
    assert out == "7 of 7 files predicted; results in out\n"


def test_the_size_of_a_batch_changes_nothing(bare_run, photos):
    assert run(bare_run, "photos", "--batch_size=3") == 0
    found, _ = embeddings()
    np.testing.assert_allclose(found, reference(bare_run, photos), atol=1e-5)


def test_the_data_and_the_optimiser_are_not_needed(bare_run, photos, monkeypatch):
    def gone(*_):
        raise AssertionError("the training data were asked for")

    monkeypatch.setattr(Retrieval, "streams", gone)
    monkeypatch.setattr(Retrieval, "init", gone)
    monkeypatch.delenv("JAXFACES_DATA", raising=False)
    assert not (bare_run / "checkpoints").exists()
    assert run(bare_run, "photos") == 0


def test_the_order_is_that_of_the_command_line(bare_run, photos):
    given = [photos[5], photos[0], photos[5], photos[3]]
    assert run(bare_run, *given) == 0
    _, files = embeddings()
    assert files == [photos[5], photos[0], photos[3]]
    rows = [(row["file"], row["status"]) for row in table("out/files.csv")]
    assert rows == list(zip(given, ["ok", "ok", "skipped", "ok"]))


def test_parquet_holds_what_npz_holds(bare_run, photos):
    assert run(bare_run, "photos") == 0
    assert run(bare_run, "photos", "--format=parquet", output="other") == 0
    found, files = embeddings()
    columns = parquet.read_table("other/embeddings.parquet")
    assert str(columns.schema.field("embedding").type).startswith("fixed_size_list")
    assert str(columns.schema.field("embedding").type.value_type) == "float"
    assert columns["file"].to_pylist() == files
    np.testing.assert_array_equal(columns["embedding"].to_pylist(), found)
    for name in ("neighbours.csv", "files.csv", "neighbours.png"):
        with open(f"out/{name}", "rb") as ours, open(f"other/{name}", "rb") as theirs:
            assert ours.read() == theirs.read()


def nearest(queries, items, k, itself):
    """Brute force in float64: (rank by rank) indices and similarities."""
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    if itself:
        np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize(("k", "expected"), [(1, 1), (3, 3), (50, 6)])
def test_neighbours_are_those_of_brute_force(bare_run, photos, k, expected):
    assert run(bare_run, "photos", f"--neighbours={k}") == 0
    found, files = embeddings()
    order, scores = nearest(found, found, expected, itself=True)
    rows = table("out/neighbours.csv")
    assert [row["query"] for row in rows] == list(np.repeat(files, expected))
    assert [int(row["rank"]) for row in rows] == [*range(1, expected + 1)] * 7
    assert [row["neighbour"] for row in rows] == [files[i] for i in order.ravel()]
    given = [float(row["similarity"]) for row in rows]
    np.testing.assert_allclose(given, scores.ravel(), atol=2e-6)
    copies = [row["neighbour"] for row in rows if row["query"] == "photos/z copy.png"]
    assert copies[0] == "photos/a.png"


@pytest.mark.parametrize("gallery", ["shelf", "npz", "npz/embeddings.npz", "parquet"])
def test_a_gallery_is_a_folder_or_earlier_predictions(bare_run, photos, gallery):
    shutil.copytree("photos/more", "shelf")
    shutil.copy("photos/ü.png", "shelf")
    for form in ("npz", "parquet"):
        assert run(bare_run, "shelf", f"--format={form}", output=form) == 0
    assert run(bare_run, *photos[:3], f"--gallery={gallery}", "--neighbours=9") == 0
    (found, _), (items, names) = embeddings(), embeddings("npz")
    assert names == ["shelf/h.png", "shelf/ü.png"]
    order, scores = nearest(found, items, 2, itself=False)
    rows = table("out/neighbours.csv")
    assert [row["neighbour"] for row in rows] == [names[i] for i in order.ravel()]
    given = [float(row["similarity"]) for row in rows]
    np.testing.assert_allclose(given, scores.ravel(), atol=2e-6)
    roles = [row["role"] for row in table("out/files.csv")]
    assert roles == ["image"] * 3 + ["gallery"] * 2 * (gallery == "shelf")


def test_a_gallery_of_another_network_is_refused(bare_run, photos, tmp_path, capsys):
    assert run(bare_run, "photos") == 0
    with np.load("out/embeddings.npz") as columns:
        np.savez("moved.npz", **{**columns, "model": "of another run"})
        np.savez("narrow.npz", embeddings=np.ones((2, 3)), files=np.array(["a", "b"]))
        np.savez("nan.npz", embeddings=np.full((1, 16), np.nan), files=np.array(["a"]))
        np.savez("objects.npz", embeddings=np.array([{}]), files=np.array(["a"]))
        np.savez("short.npz", embeddings=np.ones((2, 16)), files=np.array(["a"]))
        np.savez("plain.npz", embeddings=np.ones((2, 16)), files=np.array(["a", "b"]))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.parquet").write_text("no table")
    capsys.readouterr()
    for name, message in {
        "moved.npz": "another network",
        "narrow.npz": "another network",
        "nan.npz": "not finite",
        "objects.npz": "Python objects",
        "short.npz": "as many names",
        "text.npz": "--gallery=text.npz cannot be read",
        "text.parquet": "--gallery=text.parquet cannot be read",
        "gone.npz": "--gallery=gone.npz: no such file",
    }.items():
        assert run(bare_run, "photos", f"--gallery={name}", output="new") == 1, name
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert not os.path.exists("new")
    assert run(bare_run, "photos", "--gallery=plain.npz", output="new") == 0


@pytest.mark.parametrize("gallery", ["found", "./found/", "found/embeddings.npz"])
def test_a_gallery_is_not_replaced_by_what_is_found_in_it(
    bare_run, photos, capsys, gallery
):
    assert run(bare_run, "photos", output="found") == 0
    before = embeddings("found")[1]
    assert run(bare_run, photos[0], f"--gallery={gallery}", output="found") == 1
    assert "would replace the gallery" in capsys.readouterr().err
    assert embeddings("found")[1] == before


def test_one_image_has_an_embedding_and_no_neighbours(bare_run, photos):
    assert run(bare_run, photos[0]) == 0
    assert set(os.listdir("out")) == {
        "embeddings.npz",
        "files.csv",
        "predictions.json",
    }


def test_new_predictions_replace_the_old_ones(bare_run, photos):
    assert run(bare_run, "photos") == 0
    assert run(bare_run, "photos", "--format=parquet", "--neighbours=0") == 0
    assert set(os.listdir("out")) == {
        "embeddings.parquet",
        "files.csv",
        "predictions.json",
    }
    facts = json.loads((images.Path("out") / "predictions.json").read_text())
    assert (facts["step"], facts["ok"], facts["skipped"]) == (2, 7, 0)


def test_predictions_among_the_images_are_not_images(bare_run, photos):
    for _ in range(2):
        assert run(bare_run, "photos", output="photos/out") == 0
        assert embeddings("photos/out")[1] == photos


def test_the_picture_shows_rows_of_queries(bare_run, photos):
    assert run(bare_run, "photos", "--neighbours=3") == 0
    with Image.open("out/neighbours.png") as sheet:
        assert sheet.mode == "RGB"
        pixels = np.asarray(sheet)
    # Seven rows of cells of 96 pixels and more, four columns.
    assert pixels.shape[0] > 7 * 96
    assert 5 * 96 < pixels.shape[1] + 96 < 7 * 96
    assert pixels.std() > 30


def test_the_results_go_to_the_run_unless_told_otherwise(bare_run, photos, capsys):
    assert predict.main([f"--workdir={bare_run}", photos[0]]) == 0
    assert (bare_run / "predictions" / "embeddings.npz").exists()
    shutil.rmtree(bare_run / "predictions")


def test_the_best_variables_are_found(bare_run, photos, tmp_path, capsys):
    assert run(bare_run, "photos", "--variables=best") == 0
    wanted = reference(bare_run, photos, best=True)
    np.testing.assert_allclose(embeddings()[0], wanted, atol=1e-5)
    copy = tmp_path / "copy"
    shutil.copytree(bare_run, copy)
    (copy / "params_best.safetensors").unlink()
    capsys.readouterr()
    assert run(copy, "photos", "--variables=best", output="new") == 1
    assert "params_best.safetensors" in capsys.readouterr().err


def test_a_file_of_parameters_is_enough(bare_run, photos, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(bare_run / "params.safetensors", tmp_path / "alone")
    file = tmp_path / "alone" / "params.safetensors"
    assert predict.main([f"--workdir={file}", "photos"]) == 0
    found, _ = embeddings(tmp_path / "alone" / "predictions")
    np.testing.assert_allclose(found, reference(bare_run, photos), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("photos", "--neighbors=3"), 2, "did you mean --neighbours"),
        (("photos", "--format=csv"), 2, "none of: npz, parquet"),
        (("photos", "--max_pixels=0"), 2, "--max_pixels=0"),
        ((), 2, "which images"),
        (("gone.png",), 1, "gone.png: no such file or folder"),
        (("empty",), 1, "empty: an empty folder"),
        (("notes",), 1, "notes/a.txt: not an image by its suffix"),
        (("notes", "gone"), 1, "none of 2 files can be used"),
        (("notes/a.txt",), 1, "notes/a.txt: not an image in PNG"),
        (("photos", "--max_pixels=500"), 1, "pixels, allowed are 1 to 500"),
        (("photos", "gone", "--on_bad_example=error"), 1, "gone: no such file"),
        (("notes/a.txt", "photos", "--on_bad_example=error"), 1, "a.txt: not an im"),
        (("photos", "--output=photos"), 1, "--output=photos is not empty"),
        (("photos", "--output=photos/a.png"), 1, "is a file; give a folder"),
        (("photos", "--seed=7"), 1, "params_7.safetensors"),
        (("photos", "--gallery=" + "x" * 300), 1, "x: no such file or folder"),
        (("photos", "--gallery=photos/a.png"), 1, "file in .npz or .parquet"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    bare_run, photos, tmp_path, capsys, words, code, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    before = sorted(map(str, tmp_path.rglob("*")))
    assert run(bare_run, *words) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_missing_run_is_named(photos, capsys):
    assert predict.main(["photos"]) == 2
    assert "--workdir=FOLDER is missing" in capsys.readouterr().err
    assert run("nowhere", "photos") == 1
    assert "--workdir=nowhere holds no run" in capsys.readouterr().err


def test_what_is_left_out_is_named_and_the_rest_is_done(bare_run, photos, capsys):
    with open("photos/bad\x1b.png", "w") as file:
        file.write("no image")
    assert run(bare_run, "gone.png", "photos") == 0
    captured = capsys.readouterr()
    assert captured.out == "7 of 9 files predicted, 2 skipped; results in out\n"
    first, second = captured.err.splitlines()
    assert first == "skipped gone.png: no such file or folder"
    assert second.startswith("skipped photos/bad\\x1b.png: not an image in PNG")


def test_help_teaches_without_importing_jax():
    code = (
        "import sys, jaxfaces.predict as p; code = p.main(['--help']); "
        "assert 'jax' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("--workdir", "--gallery", "--max_pixels", "neighbours.csv", "photos"):
        assert word in done.stdout


def test_images_of_their_own_size_must_agree(tmp_path, monkeypatch, tiny_run, capsys):
    # The run was trained on made-up images of 32 pixels; with --image_size=0 and a
    # network that averages, any size will do, but one for all.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "run")
    flags = (tmp_path / "run" / "flags.cfg").read_text()
    changed = flags.replace("--image_size=32", "--image_size=0")
    assert changed != flags
    (tmp_path / "run" / "flags.cfg").write_text(changed)
    for name, size in {"a.png": (24, 24), "b.png": (24, 25), "c.png": (24, 24)}.items():
        Image.new("RGB", size, "red").save(name)
    assert run("run", "a.png", "b.png", "c.png") == 0
    assert embeddings()[1] == ["a.png", "c.png"]
    assert (
        "b.png: is 25 x 24 x 3, the first file 24 x 24 x 3" in capsys.readouterr().err
    )
    for name in ("a.png", "c.png"):
        Image.new("L", (24, 24)).save(name)
    (tmp_path / "run" / "flags.cfg").write_text(
        changed.replace("--grey=false", "--grey=true")
    )
    assert run("run", "a.png", "c.png", output="grey") == 1
    assert "the network does not take 24 x 24 x 1" in capsys.readouterr().err
