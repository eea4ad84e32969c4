"""Pictures for reports: they open, say what they should and survive odd input."""

import math
import subprocess
import sys
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxfaces.imaging import figures, pictures


def _images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _count(image, colour):
    return int((np.asarray(image) == np.array(colour)).all(axis=-1).sum())


def _records(name, values, every=1):
    return [
        {"step": i * every, "name": name, "value": value}
        for i, value in enumerate(values)
    ]


def _opened(figure, path):
    figures.to_png(figure, path)
    with Image.open(path) as image:
        image.load()
        return image


class TestContactSheet:
    @pytest.mark.parametrize("hits", [[[True, True]], [[False, False]]])
    def test_frames_tell_hits_from_misses(self, hits):
        grey = np.full((1, 2, 8, 8), 0.5, np.float32)
        sheet = figures.contact_sheet(grey[:, 0], grey, hits)
        reference = figures.contact_sheet(grey[:, 0], grey[:, :0], np.zeros((1, 0)))
        green, red = (
            _count(sheet, colour) - _count(reference, colour)
            for colour in (pictures.GREEN, pictures.RED)
        )
        assert (green > 500) == hits[0][0]
        assert (red > 250) == (not hits[0][0])
        assert min(green, red) == 0

    def test_miss_is_dashed_and_hit_is_solid(self):
        grey = np.full((1, 2, 8, 8), 0.5, np.float32)
        sheet = np.asarray(figures.contact_sheet(grey[:, 0], grey, [[True, False]]))
        body = sheet[44:]
        rows = np.where((body == pictures.GREEN).all(-1).any(1))[0]
        top = body[rows[0]]
        solid = np.where((top == pictures.GREEN).all(-1))[0]
        dashed = np.where((top == pictures.RED).all(-1))[0]
        assert (np.diff(solid) == 1).all()
        assert (np.diff(dashed) > 1).sum() >= 3
        assert np.ptp(solid) == np.ptp(dashed)

    @pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (32, 32, 3), (20, 30, 4)])
    def test_cells_are_at_least_48_pixels(self, shape):
        small = figures.contact_sheet(
            _images(2, *shape), _images(2, 3, *shape), np.ones((2, 3), bool)
        )
        wider = figures.contact_sheet(
            _images(2, *shape), _images(2, 13, *shape), np.ones((2, 13), bool)
        )
        assert small.mode == "RGB"
        assert small.height > 2 * 48
        assert wider.width > 14 * 48
        assert small.height == wider.height

    def test_enlarging_repeats_pixels(self):
        images = (_images(1, 8, 8) * 200).astype(np.uint8)
        sheet = np.asarray(figures.contact_sheet(images, images[:, None], [[True]]))
        values = set(np.unique(sheet[60:80, 20:50, 0]).tolist())
        assert values <= set(np.unique(images).tolist())

    def test_large_images_shrink_unless_scale_is_given(self):
        images = _images(1, 300, 240, 3)
        shrunk = figures.contact_sheet(images, images[:, None], [[True]])
        whole = figures.contact_sheet(images, images[:, None], [[True]], scale=1)
        assert shrunk.height < 300 < whole.height

    def test_integers_and_floats_agree(self):
        images = (_images(2, 8, 8, 3) * 255).astype(np.uint8)
        hits = np.ones((2, 1), bool)
        first = figures.contact_sheet(images, images[:, None], hits)
        floats = jnp.asarray(images / np.float32(255))
        second = figures.contact_sheet(floats, floats[:, None], jnp.asarray(hits))
        np.testing.assert_array_equal(first, second)

    def test_values_that_are_no_colour_are_clipped(self):
        images = np.array([np.nan, np.inf, -np.inf, 7.0]).reshape(1, 2, 2)
        figures.contact_sheet(images, images[:, None], [[False]])

    @pytest.mark.parametrize(
        "queries, results, hits",
        [
            ((2, 8, 8), (3, 1, 8, 8), (2, 1)),
            ((2, 8, 8), (2, 2, 8, 8), (2, 1)),
            ((1, 8, 8), (2, 2, 8, 8), (2, 2)),
            ((1, 8, 8, 2), (1, 1, 8, 8, 2), (1, 1)),
        ],
    )
    def test_shapes_that_disagree_are_refused(self, queries, results, hits):
        with pytest.raises(ValueError, match="got"):
            figures.contact_sheet(_images(*queries), _images(*results), np.ones(hits))

    def test_without_classes_there_are_no_frames(self):
        grey = np.full((2, 3, 8, 8), 0.5, np.float32)
        sheet = figures.contact_sheet(grey[:, 0], grey)
        assert _count(sheet, pictures.GREEN) == _count(sheet, pictures.RED) == 0
        assert _count(sheet, pictures.LINE) > 2 * 3 * 4 * 48

    def test_captions_stand_below_every_picture(self):
        white = np.ones((2, 3, 8, 8), np.float32)
        plain = figures.contact_sheet(white[:, 0], white, scale=12)
        texts = [["query", "0.9  a", "b", ""], ["long " * 99, "q\nr", "é", "\x1b"]]
        sheet = figures.contact_sheet(white[:, 0], white, captions=texts, scale=12)
        assert sheet.width == plain.width
        assert sheet.height == plain.height + 2 * 14
        dark, before = ((np.asarray(each) < 160).sum() for each in (sheet, plain))
        assert dark > before + 300
        cells = np.asarray(sheet)[:, 8 + 12 * 8 + 12 :][:, :18]
        assert (cells == 255).all()  # a long one keeps to its picture

    def test_cells_with_captions_are_at_least_96_pixels(self):
        images = _images(1, 8, 8)
        captions = [["query", "found"]]
        sheet = figures.contact_sheet(images, images[:, None], captions=captions)
        assert sheet.height > 48 + 96 + 14

    def test_scale_below_one_is_refused(self):
        with pytest.raises(ValueError, match="scale"):
            figures.contact_sheet(
                _images(1, 8, 8), _images(1, 1, 8, 8), [[True]], scale=0
            )


class TestEmbeddingPlot:
    def _drawn(self, figure):
        return sum(len(c.get_offsets()) for c in figure.axes[0].collections)

    def test_all_points_and_a_legend_by_class(self, tmp_path):
        labels = np.arange(60) % 3
        figure = figures.embedding_plot(
            _images(60, 8), labels, title="Test", names=["ant", "bee", "cat"]
        )
        texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
        assert texts == ["ant", "bee", "cat"]
        assert self._drawn(figure) == 60
        assert "t-SNE" in figure.axes[0].get_xlabel()
        assert _opened(figure, tmp_path / "a.png").width > 600

    def test_same_seed_same_picture(self):
        labels = np.arange(30) % 2
        first, second = (
            figures.embedding_plot(_images(30, 8), labels, title="", seed=3)
            for _ in range(2)
        )
        for a, b in zip(first.axes[0].collections, second.axes[0].collections):
            np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())

    @pytest.mark.parametrize("count", [0, 1, 2, 9, 2001])
    def test_few_or_many_points_use_pca(self, count, tmp_path):
        figure = figures.embedding_plot(
            _images(count, 5), np.zeros(count, int), title="Test"
        )
        assert self._drawn(figure) == count
        assert "PCA" in figure.axes[0].get_xlabel()
        _opened(figure, tmp_path / "a.png")

    def test_pca_keeps_distances_of_a_plane(self):
        flat = _images(6, 2)
        turn = np.linalg.qr(_images(5, 5, seed=1))[0][:2]
        figure = figures.embedding_plot(flat @ turn, np.zeros(6, int), title="")
        got = np.asarray(figure.axes[0].collections[0].get_offsets())
        want = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
        got = np.linalg.norm(got[:, None] - got[None], axis=-1)
        np.testing.assert_allclose(got / got.max(), want / want.max(), atol=1e-5)

    @pytest.mark.parametrize("value", [0.0, -3e4])
    @pytest.mark.parametrize("dim", [1, 16])
    def test_constant_embeddings(self, value, dim, tmp_path):
        figure = figures.embedding_plot(
            np.full((40, dim), value), np.arange(40) % 5, title="Constant"
        )
        assert self._drawn(figure) == 40
        _opened(figure, tmp_path / "a.png")

    def test_rows_that_are_not_finite_are_counted(self):
        embeddings = _images(8, 4)
        embeddings[2, 1], embeddings[5, 0] = np.nan, np.inf
        figure = figures.embedding_plot(embeddings, np.zeros(8, int), title="")
        assert self._drawn(figure) == 6
        assert any("2 rows not finite" in t.get_text() for t in figure.axes[0].texts)

    def test_many_classes_have_no_legend(self):
        figure = figures.embedding_plot(
            _images(2100, 4), np.arange(2100) % 13, title=""
        )
        assert figure.axes[0].get_legend() is None


class TestCurves:
    @pytest.mark.parametrize("count", [1, 4, 12])
    def test_any_number_of_names(self, count, tmp_path):
        records = []
        for i in range(count):
            records += _records(f"train/measure_{i}", [10.0 * i + 2, 10.0 * i + 5])
        figure = figures.curves(records, title="Run")
        assert len(figure.axes) == count
        assert all(a.get_xlabel() == "step" and a.get_ylabel() for a in figure.axes)
        _opened(figure, tmp_path / "a.png")

    def test_losses_and_shares_have_panels_of_their_own(self):
        records = [
            *_records("train/loss", [1.0, 0.5]),
            *_records("validation/recall_at_1", [0.3, 0.5]),
            *_records("validation/recall_at_2", [0.4, 0.6]),
            *_records("validation/loss", [1.0, 0.7]),
            *_records("validation/rate", [90.0, 80.0]),
        ]
        figure = figures.curves(records, title="Run")
        panels = {a.get_title(loc="left"): a for a in figure.axes}
        assert set(panels) == {
            "train/loss",
            "validation",
            "validation/loss",
            "validation/rate",
        }
        assert len(panels["validation"].lines) == 2

    def test_seeds_share_a_colour_and_a_legend_entry(self):
        records = []
        for seed in range(3):
            for name in ("recall", "nmi"):
                records += _records(
                    f"validation/{name}/seed{seed}", [0.1, 0.2 + seed / 9]
                )
        (axes,) = figures.curves(records, title="Run").axes
        assert len(axes.lines) == 6
        assert len({line.get_color() for line in axes.lines}) == 2
        texts = [t.get_text() for t in axes.get_legend().get_texts()]
        assert texts == ["recall (3 seeds)", "nmi (3 seeds)"]

    @pytest.mark.parametrize(
        "name, values, scale",
        [
            ("train/loss", [50.0, 1.0], "log"),
            ("train/loss", [50.0, math.nan, 1.0], "log"),
            ("train/loss", [20.0, 1.0], "linear"),
            ("train/loss", [50.0, 0.0], "linear"),
            ("train/loss", [50.0, -1.0], "linear"),
            ("train/rate", [50.0, 1.0], "linear"),
        ],
    )
    def test_log_scale_for_positive_losses_of_wide_range(self, name, values, scale):
        (axes,) = figures.curves(_records(name, values), title="").axes
        assert axes.get_yscale() == scale

    def test_values_that_are_not_finite_are_crossed(self, tmp_path):
        values = [1.0, None, math.inf, 0.5, math.nan]
        figure = figures.curves(_records("train/loss", values), title="Run")
        curve, crosses = figure.axes[0].lines
        np.testing.assert_array_equal(crosses.get_xdata(), [1, 2, 4])
        assert np.isfinite(curve.get_ydata()).sum() == 2
        _opened(figure, tmp_path / "a.png")

    @pytest.mark.parametrize("count", [1, 1000])
    def test_nothing_finite(self, count, tmp_path):
        figure = figures.curves(_records("loss", [math.nan] * count), title="Run")
        _opened(figure, tmp_path / "a.png")

    def test_nothing_recorded(self, tmp_path):
        _opened(figures.curves([], title="Run"), tmp_path / "a.png")

    def test_long_curves_are_means_of_stretches(self, tmp_path):
        values = _images(20_000) + 3
        values[7] = np.nan
        figure = figures.curves(_records("train/norm", values.tolist()), title="Run")
        line = figure.axes[0].lines[0]
        assert len(line.get_xdata()) == figures.PANEL_POINTS
        np.testing.assert_allclose(
            line.get_ydata().mean(), np.nanmean(values), atol=1e-3
        )
        _opened(figure, tmp_path / "a.png")

    def test_records_are_sorted_by_step(self):
        records = _records("train/norm", [5.0, 6.0, 7.0])
        (axes,) = figures.curves(records[::-1], title="").axes
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 1, 2])
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [5, 6, 7])

    def test_legends_and_titles_do_not_overlap(self):
        records = []
        for i in range(6):
            records += _records(f"validation/recall_at_{i}", [0.1, 0.5 + i / 20])
        figure = figures.curves(records, title="Run")
        figure.draw_without_rendering()
        (axes,) = figure.axes
        legend = axes.get_legend().get_window_extent()
        title = axes._left_title.get_window_extent()
        assert legend.y0 >= axes.get_window_extent().y1 - 1
        assert title.y0 >= legend.y1 - 1
        assert legend.x1 <= figure.bbox.x1


class TestToPng:
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
    def test_arrays_come_back(self, shape, tmp_path):
        array = (_images(*shape) * 255).astype(np.uint8)
        for given in (array, array / np.float32(255), jnp.asarray(array)):
            got = np.asarray(_opened(given, tmp_path / "deep" / "a.png"))
            np.testing.assert_array_equal(got.reshape(shape), array)

    def test_pil_images_and_figures(self, tmp_path):
        image = Image.new("RGB", (30, 20), "red")
        assert _opened(image, tmp_path / "a.png").size == (30, 20)
        figure = figures.curves(_records("loss", [1.0, 0.5]), title="Run")
        assert _opened(figure, tmp_path / "b.png").format == "PNG"

    def test_wrong_shapes_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="channels"):
            figures.to_png(np.zeros((4, 4, 2)), tmp_path / "a.png")
        assert not list(tmp_path.iterdir())

    def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(self, tmp_path):
        path = tmp_path / "a.png"
        figures.to_png(np.zeros((4, 4)), path)
        before = path.read_bytes()
        with mock.patch("os.replace", side_effect=OSError) as move:
            with pytest.raises(OSError):
                figures.to_png(np.ones((4, 4)), path)
        [(temporary, _), _] = move.call_args
        assert temporary.name.startswith(".tmp-")  # swept after a kill
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_pyplot_is_never_imported():
    code = """
import sys
from jaxfaces.imaging import figures
assert "matplotlib" not in sys.modules and "sklearn" not in sys.modules
figures.curves([{"step": 1, "name": "loss", "value": 1.0}], title="Run")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
