"""Questions about clips are asked, scored, drawn and gone on with as those about pictures are."""

import base64
import json

import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.cases import sweep
from pocketvlm_measure.evaluation.engines.local import Inline
from pocketvlm_measure.evaluation.media import fingerprint, source_of
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.plan import subjects
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.evaluation.run import evaluate
from pocketvlm_measure.evaluation.summary import summarise, to_dict
from pocketvlm_measure.evaluation.tables import headline
from support.clips import numbered, write_clip
from support.tiny_artifact import write_clip_artifact

EXACT = METRICS["exact"]
FRAMES = 4


@pytest.fixture(scope="module")
def clips_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifact") / "clips"
    write_clip_artifact(root, frames=FRAMES, budgets=(12, 6))
    return root


@pytest.fixture
def clip_set(tmp_path):
    """Four questions, two about each of two clips; a third clip is in the line itself."""
    rows = []
    for number in range(2):
        write_clip(tmp_path / f"{number}.mkv", numbered(5 + number, (20, 30)))
        rows += [
            {"video": f"{number}.mkv", "question": f"what is {word}?", "answers": ["red"]}
            for word in ("here", "there")
        ]
    data = base64.b64encode(
        write_clip(tmp_path / "in-line.mkv", numbered(9, (20, 30))).read_bytes()
    )
    uri = f"data:video/x-matroska;base64,{data.decode()}"
    rows.append({"video": [uri], "question": "what?", "answers": ["red"]})
    path = tmp_path / "set.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def asked(clips_dir):
    artifact = Artifact.open(clips_dir)
    return subjects(clips_dir, artifact, sweep(artifact.manifest, budgets=[12, 6, 3], threads=[1]))


def test_answers_are_those_of_the_model_and_a_clip_is_encoded_once(
    clips_dir, asked, clip_set, tmp_path, monkeypatch
):
    encoded, encode = [], VisionEncoder.encode

    def counted(self, pixels, *rest):
        encoded.append(len(pixels))
        return encode(self, pixels, *rest)

    data = read_questions(clip_set)
    assert [q.images for q in data.questions] == [()] * 5
    assert data.questions[0].videos == (str(tmp_path / "0.mkv"),)
    with monkeypatch.context() as patch:
        patch.setattr(VisionEncoder, "encode", counted)
        evaluation = evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline(), max_new_tokens=5)
    assert encoded == [FRAMES] * 3
    for answered in evaluation.answered:
        vlm = VLM.load(clips_dir, budget=answered.case.budget, settings=EngineSettings(threads=1))
        for question, reply in zip(data.questions, answered.replies, strict=True):
            videos = [source_of(video, "video") for video in question.videos]
            answer = vlm.generate(question.text, videos=videos, sampling=Sampling(max_new_tokens=5))
            assert reply.text == answer.text.strip()
            assert reply.visual_tokens == FRAMES * answered.case.budget
    summary = summarise(evaluation)
    assert (summary.pictures, summary.clips, to_dict(summary)["clips"]) == (0, 3, 3)
    assert "5 questions about 3 clips, exact in per cent with 95 % intervals over clips" in (
        headline(summary)
    )


def test_a_clip_that_changed_is_not_taken_for_the_one_that_was_asked_about(
    asked, clip_set, tmp_path
):
    data, answers = read_questions(clip_set), tmp_path / "a.jsonl"
    evaluate(data, asked, EXACT, answers, Inline(), max_new_tokens=2)
    rows = [json.loads(line) for line in answers.read_text().splitlines()[1:]]
    assert {row.get("media") for row in rows if row["line"] == 1} == {
        fingerprint([str(tmp_path / "0.mkv")])
    }
    assert all("media" not in row for row in rows if row["line"] == 5)  # the set has it
    evaluate(data, asked, EXACT, answers, Inline(), resume=True, max_new_tokens=2)
    (tmp_path / "1.mkv").unlink()  # nothing is asked again, so it is not missed
    evaluate(data, asked, EXACT, answers, Inline(), resume=True, max_new_tokens=2)
    write_clip(tmp_path / "1.mkv", numbered(7, (20, 30)))
    with pytest.raises(PocketVLMError, match=r"line 3: what it is about has changed since"):
        evaluate(data, asked, EXACT, answers, Inline(), resume=True, max_new_tokens=2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"video": "missing.mkv"}, "cannot be read"),
        ({"video": "."}, "is a directory, not a file"),
        ({"video": "/dev/zero"}, "pipe, socket or device"),
        ({"video": "a\0b"}, "cannot be read"),
        (
            {"video": "data:video/mp4,abc"},
            r"not a data URI in base64: expected data:video/mp4;base64",
        ),
        ({"video": "data:video/mp4;base64,AAAA"}, "is not a video"),
        ({"video": "set.jsonl"}, "is not a video"),
        ({"video": {"path": "x"}}, "'video' that is not a list of strings"),
        ({"video": [1]}, "'video' that is not a list of strings"),
        ({"image": "0.mkv"}, "about clips, not pictures"),
    ],
)
def test_a_clip_that_is_none_is_named_with_its_line(asked, tmp_path, row, reason):
    path = tmp_path / "set.jsonl"
    good = {"question": "what?", "answers": ["red"]}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | row)}\n")
    with pytest.raises(PocketVLMError, match=rf"line 2: .*{reason}") as caught:
        evaluate(read_questions(path), asked, EXACT, tmp_path / "a.jsonl", Inline())
    assert "\n" not in str(caught.value)
    skipped = evaluate(
        read_questions(path), asked, EXACT, tmp_path / "b.jsonl", Inline(), on_broken="skip"
    )
    assert [item.line for item in skipped.skipped] == [2]


def test_only_the_ends_of_a_large_file_are_read(tmp_path):
    path = tmp_path / "clip.mkv"
    seen = set()
    for content in (b"", b"x", b"x" * 200_000, b"y" + b"x" * 199_999, b"x" * 199_999 + b"y"):
        path.write_bytes(content)
        seen.add(fingerprint([str(path)]))
        seen.add(fingerprint([str(path), str(path)]))
    assert len(seen) == 10
    assert fingerprint(["/dev/zero"]) == fingerprint([str(tmp_path)]) == fingerprint([]) == ""


def test_the_page_draws_the_frames_of_clips(clips_dir, clip_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", str(clips_dir), "--data", str(clip_set), "--budget", "12,1"]
    done = CliRunner().invoke(main, [*arguments, "--report", "page.html", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "5 questions about 3 clips" in done.output
    assert "what is " in (page := (tmp_path / "page.html").read_text())
    assert page.count("data:image/jpeg") >= 2
