"""Runs the code cells of a notebook without Jupyter and keeps the pictures it shows.

    python notebook_cells.py NOTEBOOK FOLDER

As in Jupyter, what a cell shows is its last expression where that is a figure or an
image, and the figures of pyplot that are open at its end.
"""

import ast
import json
import linecache
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from jaxfaces.imaging import figures


def run(source, where, names):
    """Runs one cell; gives the value of its last expression, None if it has none."""
    linecache.cache[where] = (len(source), None, source.splitlines(True), where)
    tree = ast.parse(source, where)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, where, "exec"), names)
    return last and eval(compile(last, where, "eval"), names)


def main(notebook, folder):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        name = cell["id"]
        shown = run("".join(cell["source"]), f"{notebook.name}, cell {name}", names)
        pictures = [plt.figure(number) for number in plt.get_fignums()]
        if hasattr(shown, "savefig") or hasattr(shown, "_repr_png_"):
            pictures.append(shown)
        for i, picture in enumerate(pictures):
            figures.to_png(picture, folder / f"{name}-{i}.png")
        plt.close("all")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
