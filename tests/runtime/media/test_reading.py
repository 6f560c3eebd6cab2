"""From a file that somebody made to an answer, or to one line."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import PictureLimits, Sampling
from pocketvlm.cli import main
from pocketvlm.cli.run import summary
from pocketvlm.errors import PictureError
from pocketvlm.media.pictures import open_picture
from support.picture_files import encoded, jpeg_with, large_png, photograph

# EXIF with an orientation (a quarter turn) and a maker's name of a type that no entry has.
ODD = b"Exif\0\0MM\0*\0\0\0\x08\0\2\x01\x0f\0\x63\0\0\0\1abcd\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
BRIEF = Sampling(max_new_tokens=2)


def test_an_odd_note_is_no_reason_to_refuse_an_answer(vlm):
    photo = photograph()
    plain = encoded(photo, "JPEG")
    turned = Image.open(io.BytesIO(plain)).transpose(Image.Transpose.ROTATE_270)
    answers = [
        vlm.generate("what?", images=[image], sampling=BRIEF)
        for image in (jpeg_with(photo, (0xE1, ODD)), np.asarray(turned))
    ]
    assert answers[0].kept_indices == answers[1].kept_indices
    assert answers[0].token_ids == answers[1].token_ids


def test_an_answer_says_how_many_pictures_were_read_smaller(vlm):
    large = open_picture(large_png(6050, 6000, 0), PictureLimits(max_memory=80_000_000))
    for images, reduced in (([large, photograph()], 1), ([photograph()], 0)):
        answer = vlm.generate("what?", images=images, sampling=BRIEF)
        assert answer.pictures_reduced == reduced
        assert ("fraction of the size" in summary(answer)) is bool(reduced)


def test_a_pipe_for_a_picture_is_refused_by_the_command_line(artifact_dir, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["run", str(artifact_dir), "--prompt", "what?", "--image", str(pipe)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "pipe, socket or device, not a file" in result.output


def test_chat_goes_on_after_a_picture_that_is_refused(artifact_dir, tmp_path):
    sound, damaged = tmp_path / "sound.jpg", tmp_path / "damaged.avif"
    sound.write_bytes(jpeg_with(photograph(), (0xE1, ODD)))
    damaged.write_bytes(encoded(photograph(), "AVIF")[:-40])
    lines = f"/image {damaged}\n/image {sound}\nwhat?\n"
    arguments = ["chat", str(artifact_dir), "--json", "--max-new-tokens", "2"]
    result = CliRunner().invoke(main, arguments, input=lines)
    refusal, answer = map(json.loads, result.stdout.splitlines())
    assert "damaged.avif" in refusal["error"]
    assert answer["visual_tokens"]["after"] > 0


def test_a_picture_whose_name_is_not_utf8_is_read(vlm, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(path)).write_bytes(encoded(photograph(), "PNG"))
    assert vlm.generate("what?", images=[os.fsdecode(path)], sampling=BRIEF).token_ids
    with pytest.raises(PictureError, match="cannot be read"):
        vlm.generate("what?", images=[os.fsdecode(path + b"x")])
