"""Knows how a self-contained page is made: text is escaped, no script, pictures are embedded."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
from PIL import Image


def render(package: str, template: str, **values: Any) -> str:
    """The page of a template of ``package``, which extends ``page.html.jinja`` of this folder."""
    loaders = jinja2.ChoiceLoader(
        [jinja2.PackageLoader(package, "."), jinja2.PackageLoader(__package__, ".")]
    )
    environment = jinja2.Environment(
        loader=loaders, autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**values)


def data_uri(kind: str, data: bytes) -> str:
    """Bytes of a media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def svg_uri(svg: bytes) -> str:
    """A plot as a data URI."""
    return data_uri("image/svg+xml", svg)


def jpeg_uri(drawing: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    drawing.save(file, format="JPEG", quality=90)
    return data_uri("image/jpeg", file.getvalue())
