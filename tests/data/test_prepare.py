import subprocess
import sys

import pytest
from PIL import Image

from jaxfaces.data import layouts, prepare, sources


@pytest.fixture
def photos(tmp_path):
    for name in ("daisy", "iris", "rose", "tulip"):
        for i in range(2):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 6), (10, 50 * i, 90)).save(path)
    return tmp_path / "photos"


def run(*arguments):
    prepare.main(["prepare", *map(str, arguments)])


def fails(*arguments):
    """Runs the command; it must exit with one line, which is returned."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    line = caught.value.code
    assert isinstance(line, str)
    assert "\n" not in line
    return line


def test_a_folder_becomes_a_data_set(photos, tmp_path, capsys):
    run(
        "--dataset=folder",
        "--name=flowers",
        f"--source={photos}",
        f"--data_dir={tmp_path}",
        "--test_fraction=0.25",
    )
    shown = capsys.readouterr().out
    assert f"flowers is in {tmp_path / 'flowers' / '1.0.0'}" in shown
    assert "train: 6 images" in shown
    assert "test: 2 images" in shown
    test = sources.load("flowers", "test", data_dir=str(tmp_path), image_size=4)
    assert set(test.labels) == {3}
    assert test.names[3] == "tulip"


def test_test_classes_and_the_environment_are_heeded(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFACES_DATA", str(tmp_path))
    run("--dataset=folder", f"--source={photos}", "--test_classes=daisy,rose")
    assert set(sources.load("folder", "test", image_size=4).labels) == {0, 2}


def test_a_data_set_is_overwritten_only_when_asked(photos, tmp_path):
    arguments = ["--dataset=folder", f"--source={photos}", f"--data_dir={tmp_path}"]
    run(*arguments)
    assert "--overwrite" in fails(*arguments)
    run(*arguments, "--overwrite")


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "--dataset is one of cub200"),
        (["--dataset=cub201"], "cub201"),
        (["--datset=cub200"], "Did you mean: dataset"),
        (["--dataset=cub200"], "JAXFACES_DATA"),
        (["--dataset=cub200", "--data_dir=x"], "--source"),
        (["--dataset=cub200", "--data_dir=x", "--source=nowhere"], "nowhere"),
        (["stray"], "stray"),
        (["--dataset=folder", "--test_fraction=2"], "test_fraction"),
    ],
)
def test_trouble_with_flags_is_one_clear_line(arguments, message, monkeypatch):
    monkeypatch.delenv("JAXFACES_DATA", raising=False)
    assert message in fails(*arguments)


@pytest.mark.parametrize("name", ["Flowers", "a/b", "..", "1st", "a b"])
def test_names_that_tfds_would_refuse_are_refused_first(photos, tmp_path, name):
    line = fails(
        "--dataset=folder", f"--source={photos}", f"--data_dir={tmp_path}",
        f"--name={name}",
    )  # fmt: skip
    assert "lower-case" in line


def test_a_wrong_layout_is_one_clear_line(photos, tmp_path):
    line = fails("--dataset=cub200", f"--source={photos}", f"--data_dir={tmp_path}")
    assert "images.txt" in line


def test_a_damaged_image_is_one_clear_line(photos, tmp_path):
    (photos / "iris" / "0.png").write_text("text")
    line = fails("--dataset=folder", f"--source={photos}", f"--data_dir={tmp_path}")
    assert "iris/0.png" in line
    assert not (tmp_path / "folder").exists()


def test_help_teaches_every_layout_and_flag(capsys):
    run("--help")
    shown = capsys.readouterr().out
    for word in (*layouts.LAYOUTS, "images.txt", "Ebay_train.txt", "overwrite"):
        assert word in shown


def test_the_module_runs_as_a_command(tmp_path):
    command = [sys.executable, "-m", "jaxfaces.data.prepare", "--dataset=sop"]
    done = subprocess.run(
        [*command, f"--source={tmp_path}", f"--data_dir={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Ebay_train.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
