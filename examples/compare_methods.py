"""What several methods keep of one picture, side by side: python examples/compare_methods.py
[METHOD ...]

Which patches stay is decided inside the exported graph, so each method is an export of its own:
half a minute for the demo, once. Without names: scope (the default), fastervlm, divprune, uniform.
"""

import sys

from PIL import Image, ImageDraw

from demo_folder import BUILD, EXAMPLES
from pocketvlm import Artifact
from pocketvlm.vision.overlay import draw_budgets
from pocketvlm_export import ExportOptions, export

BUDGET = 36  # of 144 patches
METHODS = sys.argv[1:] or ["scope", "fastervlm", "divprune", "uniform"]
PICTURES = ["scene-3.png", "coffee.jpg"]
EDGE, TITLE = 256, 24  # pixels

sheet = Image.new("RGB", (EDGE * len(METHODS), (EDGE + TITLE) * len(PICTURES)), "white")
for column, method in enumerate(METHODS):
    folder = BUILD / "methods" / method
    if not (folder / "pocketvlm.json").exists():
        print(f"exporting the demo with --pruner {method}", file=sys.stderr)
        export("demo", folder, ExportOptions(method, budgets=(BUDGET,)))
    artifact = Artifact.open(folder)
    for row, name in enumerate(PICTURES):
        # {budget: (the drawing, the numbers of the patches that are kept)}
        drawing, kept = draw_budgets(artifact, EXAMPLES / name, [BUDGET])[BUDGET]
        place = (column * EDGE, row * (EDGE + TITLE))
        sheet.paste(drawing.resize((EDGE, EDGE)), (place[0], place[1] + TITLE))
        label = f"{method}: {len(kept)} of 144"
        ImageDraw.Draw(sheet).text((place[0] + 6, place[1] + 6), label, fill="black")

output = BUILD / "compare-methods.png"
sheet.save(output)
print(f"wrote {output}")
