"""Which files of a folder are taken for pictures: by their names, whatever is in them."""

import pytest

from pocketvlm.media.folders import pictures_in


def test_files_are_told_by_their_names(tmp_path):
    pictures = ["B.JPG", "a.jpeg", "c.png", "d.tiff", "e.webp", "f.gif", "g.bmp", "h.jp2"]
    others = ["notes.txt", "scene.eps", "plain", "page.pdf", "clip.mp4"]
    for name in (*pictures, *others, ".hidden.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inner.png").write_bytes(b"")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.png").symlink_to(tmp_path / "c.png")
    images, rest = pictures_in(tmp_path)
    assert [path.name for path in images] == sorted([*pictures, "link.png"])
    assert [path.name for path in rest] == sorted(others)


def test_what_is_no_folder_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        pictures_in(tmp_path / "none")
    with pytest.raises(NotADirectoryError):
        pictures_in(tmp_path / "file.png")
