"""What a profile says of an artifact that selects by the question: its selection, and a further
question about the same pictures."""

import json

import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, Sampling, cli
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.profiler.once import further_ms
from pocketvlm_measure.profiler.questions import Question
from pocketvlm_measure.profiler.result import STAGES
from support.noise import picture
from support.tiny_artifact import give_selectors, write_artifact

K = 6


@pytest.fixture
def folder(tmp_path):
    give_selectors(tmp_path / "a", write_artifact(tmp_path / "a", budgets=(K,)), (K,))
    return tmp_path / "a"


def test_selection_and_a_further_question_are_stages(folder, tmp_path):
    command = ["profile", folder, "--repeat", 1, "--warmup", 0, "--new-tokens", 2, "--threads", 1]
    command += ["-o", tmp_path / "x.md", "--json"]
    result = CliRunner().invoke(cli.main, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    rows = {row["stage"]: row for row in json.loads(result.stdout)["results"]}
    assert tuple(rows) == (*STAGES, "further")
    assert all(row["median_ns"] > 0 for row in rows.values())
    share = rows["select"]["median_ns"] / rows["vision"]["median_ns"]
    assert rows["select"]["select_share"] == pytest.approx(share, rel=1e-3)
    page = (tmp_path / "x.md").read_text()
    assert "further: to the first token of another question about the same pictures" in page
    assert "select was not measured" not in page


def test_a_further_question_is_another_one_about_the_same_pictures(folder, monkeypatch):
    """The tower runs once, and both questions are asked in one conversation."""
    encoded, selected = [], []
    encode, select = VisionEncoder.encode, VisionEncoder.select

    def counted(self, pixels, *rest):
        encoded.append(len(pixels))
        return encode(self, pixels, *rest)

    def noted(self, features, question=None):
        selected.append(question.tolist())
        return select(self, features, question)

    monkeypatch.setattr(VisionEncoder, "encode", counted)
    monkeypatch.setattr(VisionEncoder, "select", noted)
    given = {"image": [picture(20, 20)], "video": []}
    vlm = VLM.load(folder)
    assert further_ms(vlm, Question("what <image> is it"), given, K) > 0
    words = [
        vlm.parts.prompter.tokenizer.encode(text, add_special_tokens=False).ids
        for text in ("what   is it", "it is  what")
    ]
    assert encoded == [1]
    assert len(selected) == 2
    assert selected[1] == words[1]


def test_other_artifacts_have_no_such_stage(tmp_path):
    write_artifact(tmp_path / "a")
    answer = VLM.load(tmp_path / "a").generate(
        "what?", [picture(20, 20)], sampling=Sampling(max_new_tokens=1)
    )
    assert "select" not in answer.timings_ms
    assert not Artifact.open(tmp_path / "a").manifest.vision.selectors
