"""`pocketvlm profile` measures clips as it measures pictures, of a file and of noise."""

import json

import pytest
from click.testing import CliRunner

from pocketvlm import Artifact, cli
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm_measure.cases import sweep
from pocketvlm_measure.profiler.measure import profile
from pocketvlm_measure.profiler.questions import Question, check_question
from pocketvlm_measure.profiler.tables import headline
from support.clips import numbered, write_clip
from support.tiny_artifact import write_artifact, write_clip_artifact

FRAMES = 4


def pocketvlm(*arguments):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="pocketvlm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip_artifact(folder / "artifact", frames=FRAMES)
    write_clip(folder / "clip.mkv", numbered(7, (20, 30)))
    return folder


def test_a_clip_is_measured_and_its_frames_are_drawn(folder):
    done = pocketvlm(
        "profile", folder / "artifact", "--video", folder / "clip.mkv", "--threads", 1,
        "--repeat", 1, "--warmup", 0, "--new-tokens", 2, "--budget", "6", "--json",
        "--report", folder / "page.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    row = next(r for r in json.loads(done.stdout)["results"] if r["stage"] == "vision")
    assert (row["pictures"], row["clips"], row["tiles"]) == (0, 1, FRAMES)
    assert (row["visual_tokens_before"], row["visual_tokens_after"]) == (FRAMES * 16, FRAMES * 6)
    assert row["picture_sizes"] == ["30x20"]
    assert row["select_share"] > 0
    page = (folder / "page.html").read_text()
    assert "clip.mkv" in page
    assert page.count("data:image/jpeg") == 1  # its frames side by side


def test_noise_is_a_clip_where_clips_are_read(folder):
    artifact = Artifact.open(folder / "artifact")
    (shown,) = Question("what?", picture_size=(40, 10)).open(artifact)
    assert (shown.medium, len(shown.frames), shown.size) == ("video", FRAMES, (10, 40))
    (largest,) = Question("what?").open(artifact)
    assert largest.size == (16, 16)  # of one frame
    cases = sweep(artifact.manifest, threads=[1])
    measured = profile(artifact, cases, Question("what?", new_tokens=2), repeat=1, warmup=0)
    text = headline(measured)
    assert "64 visual tokens in 4 frames before pruning; 1 clip of 16x16 pixels and" in text


def test_what_is_no_clip_or_not_read_is_refused_before_anything_runs(folder, tmp_path):
    artifact = Artifact.open(folder / "artifact")
    write_artifact(tmp_path / "pictures")
    pictures = Artifact.open(tmp_path / "pictures")
    clip = str(folder / "clip.mkv")
    with pytest.raises(RequestError, match="about clips, not pictures"):
        check_question(artifact, Question("what?", (clip,)), 6)
    with pytest.raises(RequestError, match="about pictures, not clips"):
        check_question(pictures, Question("what?", videos=(clip,)), 6)
    with pytest.raises(PocketVLMError, match="cannot be read"):
        check_question(artifact, Question("what?", videos=(str(tmp_path / "none.mkv"),)), 6)
    done = pocketvlm("profile", folder / "artifact", "--video", clip, "--picture-size", "3x3")
    assert (done.exit_code, "--video has a size of its own" in done.output) == (2, True)
    done = pocketvlm("profile", folder / "artifact", "--video", clip, "-o", f"{clip}.md",
                     "--report", clip)  # fmt: skip
    assert done.exit_code == 1
    assert "clip.mkv" in done.output
