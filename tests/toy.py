"""A toy run of a recipe: what the stages up to extract leave behind, without audio."""

from pathlib import Path

import yaml

from nessa.files import write_table
from tests.pairs import all_trials, two_views

ENCODER = {
    "architecture": "tdnn", "channels": 8, "dim": 8, "steps": 1, "loss": {"type": "ge2e"}
}  # fmt: skip


class Toy:
    """A run in small, up to stage extract: two models' embeddings, data and a recipe.

    Model x has 12 dimensions and model y 20. In the set "align" are speakers 0 to 39, in "dev"
    100 to 104 and in "eval" 200 to 204, with two utterances each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.exp = folder, folder / "data", folder / "exp"
        self.x, self.y = (self.exp / "embeddings" / model for model in "xy")
        self.recipe = folder / "recipe.yaml"
        self.trials = self.data / "eval" / "trials"
        for name, first, speakers in (("align", 0, 40), ("dev", 100, 5), ("eval", 200, 5)):
            x, y, utt2spk = two_views(speakers, 2, first_speaker=first)
            x.write(self.x / name, utt2spk)
            y.write(self.y / name, utt2spk)
            write_table(self.data / name / "utt2spk", utt2spk)
            all_trials(utt2spk).write(self.data / name / "trials")
        settings = {
            "name": "toy",
            "corpus": {"program": "mini"},
            "prepare": {"program": "voxceleb"},
            "encoders": {"x": ENCODER, "y": ENCODER},
            "update": ["x", "y"],
            "aligner": {"steps": 4, "dim": 8, "hidden_dim": 8, "speakers_per_batch": 8},
            "scoring": {"top_n": 20},
            "evaluation": {"bootstrap_draws": 5},
        }
        self.recipe.write_text(yaml.safe_dump(settings))

    def align(self, aligner: str = "procrustes") -> list[object]:
        sides = ["--enroll", self.x, "--runtime", self.y, "--data", self.data]
        recipe = ["--recipe", self.recipe, "--aligner", aligner]
        return ["align", *recipe, *sides, "--output", self.folder / "aligner"]

    def map(self, enroll: Path | None = None, runtime: Path | None = None) -> list[object]:
        sides = ["--enroll", enroll or self.x / "eval", "--runtime", runtime or self.y / "eval"]
        output = ["--output", self.folder / "mapped"]
        return ["map", "--aligner", self.folder / "aligner", *sides, *output]

    def score(self, enroll: Path | None = None, runtime: Path | None = None) -> list[object]:
        sides = ["--enroll", enroll or self.x / "eval", "--runtime", runtime or self.x / "eval"]
        return ["score", *sides, "--trials", self.trials, "--output", self.folder / "scores"]

    def evaluate(self, *systems: str) -> list[object]:
        named = [word for system in systems for word in ("--system", system)]
        paths = ["--recipe", self.recipe, "--data", self.data, "--exp", self.exp]
        output = ["--output", self.folder / "metrics.json"]
        return ["recipe", "evaluate", *paths, *named, *output]

    def stage(self, command: str, system: str) -> list[object]:
        """`nessa recipe map` or `score` of a system."""
        paths = ["--recipe", self.recipe, "--data", self.data, "--exp", self.exp]
        return ["recipe", command, *paths, "--system", system]
