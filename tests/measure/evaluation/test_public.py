"""Public files, in their own layouts and made up here, become the set that `evaluate` reads, as
LLaVA-1.5 is asked."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import cli
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.public import BENCHMARKS
from pocketvlm_measure.evaluation.questions import read_questions

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def vqa_answers(*texts):
    return [
        {"answer": text, "answer_confidence": "yes", "answer_id": i}
        for i, text in enumerate(texts, start=1)
    ]


VQA_QUESTIONS = {
    "info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014",  # noqa: E501
    "license": {}, "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "Is it day?", "question_id": 262148001},
    ],
}  # fmt: skip
VQA_ANNOTATIONS = {
    "info": {}, "data_subtype": "val2014", "annotations": [
        {"question_type": "is it", "multiple_choice_answer": "yes", "answers": vqa_answers(*["yes"] * 10),  # noqa: E501
         "image_id": 262148, "answer_type": "yes/no", "question_id": 262148001},
        {"question_type": "where is", "multiple_choice_answer": "down",
         "answers": vqa_answers("down", "down", "at table", *["skateboard"] * 7), "image_id": 262148,  # noqa: E501
         "answer_type": "other", "question_id": 262148000},
    ],
}  # fmt: skip
GQA = {
    "201307251": {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "bag (1)"}], "entailed": [],  # noqa: E501
        "equivalent": ["201307251"], "question": "Is it overcast?", "imageId": "n161313", "isBalanced": True,  # noqa: E501
        "groups": {"global": None, "local": "13-weather_no"}, "answer": "no", "semanticStr": "...",
        "annotations": {}, "types": {"detailed": "weatherVerify", "semantic": "global", "structural": "verify"},  # noqa: E501
        "fullAnswer": "No, it is clear.",
    }
}  # fmt: skip
TEXTVQA = {
    "dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [
        {"question": "what is the brand of this camera?", "image_id": "003a8ae2ef43b901",
         "image_classes": ["Camera"], "flickr_original_url": "https://x", "flickr_300k_url": "https://x",
         "image_width": 1024, "image_height": 664, "set_name": "val", "question_id": 34602,
         "question_tokens": ["what"], "answers": ["nous les gosses", "dakota"] + ["dakota"] * 8},
    ],
}  # fmt: skip
OCR = {
    "dataset_type": "val", "data": [
        {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL"], "ocr_info": [], "set_name": "val"},  # noqa: E501
    ],
}  # fmt: skip
COCO = "COCO_val2014_000000310196.jpg"
POPE = [
    {"question_id": 1, "image": COCO, "text": "Is there a snowboard in the image?", "label": "yes"},
    {"question_id": 2, "image": COCO, "text": "Is there a dog in the image?", "label": "no"},
]
SCIENCE = {
    "4": {"question": "Which is north?", "choices": ["West Virginia", "Louisiana"], "answer": 0, "hint": "",  # noqa: E501
          "image": "image.png", "task": "closed choice", "grade": "grade2", "subject": "social "
                                                                                       "science",
          "topic": "geography", "category": "Geography", "skill": "maps", "lecture": "...", "solution": "...",  # noqa: E501
          "split": "test"},
    "5": {"question": "No picture?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": None, "subject": "x"},  # noqa: E501
    "6": {"question": "Which is hot?", "choices": ["ice", "fire", "snow"], "answer": 1, "hint": "Look at it.",  # noqa: E501
          "image": "image.png", "subject": "natural science"},
    "7": {"question": "Train?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": "image.png", "subject": "x"},  # noqa: E501
}  # fmt: skip
SPLITS = {"train": ["7"], "val": [], "test": ["4", "5", "6"], "trainval": ["7"], "minitest": ["4"]}


@pytest.fixture
def public(tmp_path):
    """The files of every benchmark, with the pictures they name: {benchmark: (files, folder of
    pictures)}."""

    def write(name, value):
        text = (
            "\n".join(json.dumps(row) for row in value)
            if isinstance(value, list)
            else json.dumps(value)
        )
        (tmp_path / name).write_text(text)
        return tmp_path / name

    for name in ("COCO_val2014_000000262148.jpg", "n161313.jpg", "003a8ae2ef43b901.jpg",
                 COCO, "4/image.png", "6/image.png"):  # fmt: skip
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path / "images", {
        "vqav2": [write("q.json", VQA_QUESTIONS), write("a.json", VQA_ANNOTATIONS)],
        "gqa": [write("testdev_balanced_questions.json", GQA)],
        "textvqa": [write("TextVQA_0.5.1_val.json", TEXTVQA), write("ocr.json", OCR)],
        "pope": [
            write("coco_pope_random.json", POPE),
            write("coco_pope_adversarial.json", POPE[:1]),
        ],
        "scienceqa": [write("problems.json", SCIENCE), write("pid_splits.json", SPLITS)],
    }


EXPECTED = {
    "vqav2": [
        ("262148000", "COCO_val2014_000000262148.jpg", f"Where is he looking?{SHORT}",
         ("down", "down", "at table", *["skateboard"] * 7), ("other",)),
        ("262148001", "COCO_val2014_000000262148.jpg", f"Is it day?{SHORT}", ("yes",) * 10, ("yes/no",)),  # noqa: E501
    ],
    "gqa": [("201307251", "n161313.jpg", f"Is it overcast?{SHORT}", ("no",), ("verify",))],
    "textvqa": [
        ("34602", "003a8ae2ef43b901.jpg",
         f"what is the brand of this camera?\nReference OCR token: DAKOTA, DIGITAL{SHORT}",
         ("nous les gosses", *["dakota"] * 9), ()),
    ],
    "pope": [
        ("random-1", COCO, f"Is there a snowboard in the image?{SHORT}", ("yes",), ("random",)),
        ("random-2", COCO, f"Is there a dog in the image?{SHORT}", ("no",), ("random",)),
        ("adversarial-1", COCO, f"Is there a snowboard in the image?{SHORT}", ("yes",), ("adversarial",)),  # noqa: E501
    ],
    "scienceqa": [
        ("4", "4/image.png", f"Which is north?\nA. West Virginia\nB. Louisiana{LETTER}", ("A",), ("social science",)),  # noqa: E501
        ("6", "6/image.png", f"Context: Look at it.\nWhich is hot?\nA. ice\nB. fire\nC. "
                             f"snow{LETTER}", ("B",),
         ("natural science",)),
    ],
}  # fmt: skip


def pocketvlm(*arguments):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="pocketvlm")


@pytest.mark.parametrize("name", list(EXPECTED))
def test_public_files_become_a_set(public, tmp_path, name):
    images, files = public
    result = pocketvlm(
        "questions", name, *files[name], "--images", images, "-o", tmp_path / "set.jsonl"
    )
    assert result.exit_code == 0, result.output
    assert f"--metric {BENCHMARKS[name].metric}" in result.stdout
    data = read_questions(tmp_path / "set.jsonl")
    assert not data.broken
    assert [(q.id, q.images, q.text, q.answers, q.tags) for q in data.questions] == [
        (name, (str(images / image),), text, answers, tags)
        for name, image, text, answers, tags in EXPECTED[name]
    ]
    metric = METRICS[BENCHMARKS[name].metric]
    assert all(metric.refusal(question.answers) is None for question in data.questions)


def test_textvqa_without_the_words_that_were_read(public, tmp_path):
    images, files = public
    result = pocketvlm(
        "questions",
        "textvqa",
        files["textvqa"][0],
        "--images",
        images,
        "-o",
        tmp_path / "set.jsonl",
    )
    assert result.exit_code == 0, result.output
    (question,) = read_questions(tmp_path / "set.jsonl").questions
    assert question.text == f"what is the brand of this camera?{SHORT}"


def test_what_is_no_public_file_is_refused(public, tmp_path):
    images, files = public
    out = tmp_path / "set.jsonl"

    def refusal(*arguments):
        result = pocketvlm("questions", *arguments, "-o", out)
        assert (result.exit_code, out.exists()) == (1, False)
        return result.stderr

    assert "there is no picture" in refusal("gqa", *files["gqa"], "--images", tmp_path)
    assert "expected v2_OpenEnded" in refusal("vqav2", *files["gqa"], "--images", images)
    assert "not files of vqav2 (KeyError" in refusal(
        "vqav2", *files["gqa"], *files["gqa"], "--images", images
    )
    assert "not files of gqa" in refusal("gqa", files["vqav2"][0], "--images", images)
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json cannot be read as JSON" in refusal(
        "gqa", tmp_path / "bad.json", "--images", images
    )
    assert "cannot be read" in refusal("pope", tmp_path / "missing.json", "--images", images)
    (tmp_path / "empty.json").write_text("{}")
    assert "there is no question" in refusal("gqa", tmp_path / "empty.json", "--images", images)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_benchmark_is_one_registry_line(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name
    assert benchmark.metric in METRICS
    assert all(
        0 < value < 100 for row in benchmark.published.columns.values() for value in row.values()
    )
    help_text = pocketvlm("questions", "--help").stdout
    assert f"{name:9}  {' '.join(benchmark.files)}\n" in help_text
