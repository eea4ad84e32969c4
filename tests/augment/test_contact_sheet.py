"""The sheet of all operations, as its command writes it."""

import numpy as np
from PIL import Image

from augment import contact_sheet


def test_the_command_writes_a_sheet_of_every_operation(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "LEVELS", (0.5,))
    assert contact_sheet.main([f"--out={tmp_path / 'sheet.png'}"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    picture = contact_sheet.generated_picture()
    top, left = 20, contact_sheet.NAME + contact_sheet.GAP
    side = contact_sheet.SIDE
    # A shear at level 0.5 is none.
    assert np.array_equal(sheet[top : top + side, left : left + side], picture)
    rows = (sheet[:, left : left + side] != 255).any((1, 2))
    assert rows.sum() >= len(contact_sheet.TABLE) / 2 * side


def test_cut_outs_stand_out():
    picture = contact_sheet.generated_picture().astype(int)
    names = [each.name for each in contact_sheet.TABLE]
    for results, name in zip(contact_sheet._at_levels(picture.astype(np.uint8)), names):
        if name in ("Cutout", "CutoutAbs"):
            change = np.abs(results[-1] - picture).max(-1)
            assert (change > 40).sum() > 100, name
