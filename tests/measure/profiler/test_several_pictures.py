"""Profiles of prompts whose pictures are arranged otherwise beside others than alone."""

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm_measure.cases import Case
from pocketvlm_measure.profiler.once import answer_once
from pocketvlm_measure.profiler.questions import Question, check_question, grids_of
from support.noise import picture
from support.tiny_artifact import cut_pictures, write_artifact

K = 3


def test_their_number_decides_what_is_measured(tmp_path):
    folder, paths = tmp_path / "artifact", []
    write_artifact(folder, budgets=(K,))
    cut_pictures(folder, 2, 2)
    for size in ((40, 30), (20, 50)):
        paths.append(str(tmp_path / f"{size[0]}.png"))
        picture(*size).save(paths[-1])
    artifact, vlm = Artifact.open(folder), VLM.load(folder)
    for count in (1, 2):
        question = Question("what?", tuple(paths[:count]), new_tokens=3)
        check_question(artifact, question, K)
        grids = [grid for _, grid in grids_of(artifact, question)]
        sample = answer_once(folder, Case(K, "onnx", "fp32", "fp32"), question, 0)
        assert sample.tiles == sum(grid.tiles for grid in grids)
        answer = vlm.generate("what?", paths[:count], sampling=Sampling(max_new_tokens=3))
        assert sample.visual_after == sum(answer.tokens_per_picture)
        assert (sample.tiles == 2) == (count == 2)
