"""Knows how a page is made that needs nothing else: text is escaped, no script, pictures lie inside
it."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
from PIL import Image


def render(package: str, template: str, **values: Any) -> str:
    """The page of a template beside the module that asks, which extends ``page.html.jinja`` of this
    folder."""
    loaders = jinja2.ChoiceLoader(
        [jinja2.PackageLoader(package, "."), jinja2.PackageLoader(__package__, ".")]
    )
    environment = jinja2.Environment(
        loader=loaders, autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**values)


def data_uri(kind: str, data: bytes) -> str:
    """Bytes of a media type as an address that is the thing itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def svg_uri(svg: bytes) -> str:
    """A plot as an address."""
    return data_uri("image/svg+xml", svg)


def jpeg_uri(drawing: Image.Image) -> str:
    """A picture as an address."""
    file = io.BytesIO()
    drawing.save(file, format="JPEG", quality=90)
    return data_uri("image/jpeg", file.getvalue())
