"""The demo's scenes: right answers, nothing ambiguous, splits apart."""

import numpy as np

from demo_questions.__main__ import write_set
from pocketvlm.media.pictures import open_picture
from pocketvlm_measure.evaluation.media import source_of
from pocketvlm_measure.evaluation.questions import read_questions
from train_demo.scenes import (
    CELL,
    KINDS,
    NUMBERS,
    SPLITS,
    make_scene,
    question_set,
    questions,
    render,
    scene_rng,
)


def test_answers_follow_from_the_scene():
    for index in range(300):
        rng = scene_rng("validation", index)
        scene = make_scene(rng)
        asked = list(questions(scene, rng))
        assert [q.kind for q in asked] == list(KINDS)
        by_kind = {q.kind: q for q in asked}
        names = {(t.colour, t.kind) for t in scene.things}
        assert (
            len({t.colour for t in scene.things})
            == len({t.kind for t in scene.things})
            == len(scene.things)
        )
        assert by_kind["count"].answer == NUMBERS[len(scene.things)]
        colour, kind = (
            by_kind["presence"].text.removeprefix("Is there a ").removesuffix("?").split()
        )
        assert (by_kind["presence"].answer == "yes") == ((colour, kind) in names)
        assert all(
            t.name in by_kind["description"].answer and t.place in by_kind["description"].answer
            for t in scene.things
        )


def test_objects_show_their_colour_in_their_cell():
    for index in range(50):
        scene = make_scene(scene_rng("validation", index), count=1)
        (thing,) = scene.things
        pixels = np.asarray(render(scene), dtype=float)
        saturation = pixels.max(2) - pixels.min(2) if thing.colour != "white" else pixels.min(2)
        y, x = np.unravel_index(saturation.argmax(), saturation.shape)
        assert abs(x - (thing.cell % 3 + 0.5) * CELL) <= CELL / 2 + 3
        assert abs(y - (thing.cell // 3 + 0.5) * CELL) <= CELL / 2 + 3


def test_scenes_depend_on_split_and_index_alone():
    again = [make_scene(scene_rng("test", i)) for i in range(20)]
    assert again == [make_scene(scene_rng("test", i)) for i in range(20)]
    scenes = {
        split: {repr(make_scene(scene_rng(split, i))) for i in range(200)} for split in SPLITS
    }
    assert all(not scenes[a] & scenes[b] for a in SPLITS for b in SPLITS if a < b)


def test_a_question_set_takes_the_kinds_in_turn():
    assert [question.kind for _, question in question_set("test", 14)] == [*KINDS, *KINDS]


def test_questions_about_the_same_picture_are_of_different_kinds():
    asked = list(question_set("validation", 10, per_picture=4))
    assert [question.kind for _, question in asked] == [KINDS[i % len(KINDS)] for i in range(10)]
    pictures = [picture.tobytes() for picture, _ in asked]
    assert [pictures.index(picture) for picture in pictures] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_a_set_is_what_evaluate_reads(tmp_path):
    data = read_questions(write_set(tmp_path, "validation", 6, per_picture=3))
    expected = question_set("validation", 6, per_picture=3)
    for question, (picture, asked) in zip(data.questions, expected, strict=True):
        assert (question.text, question.answers, question.tags) == (
            asked.text,
            (asked.answer,),
            (asked.kind,),
        )
        assert open_picture(source_of(question.images[0])).tobytes() == picture.tobytes()
    assert not data.broken
    assert len(list(tmp_path.glob("*.png"))) == 2
