"""Deployment targets, TOML."""

import re
from pathlib import Path
from random import Random

from fuzz.base import Target, put
from fuzz.byte_changes import damaged
from fuzz.json_changes import TEXTS
from pocketvlm_targets import load_target, target_names, write_target
from pocketvlm_targets.target import TargetError

_VALUES = (
    "1", "0", "-1", "9223372036854775807", "9223372036854775808", "1e999", "nan", "inf", "0x7f",
    "true", '""', "''", "[]", "[[]]", "{}", "{a = 1}", "[1, 'a']", "1979-05-27T07:32:00Z",
    "'''a\nb'''", '"\\u0000"', '"\\n"', "1_000", "[" * 500 + "]" * 500,
    "{a=" * 400 + "1" + "}" * 400, "1" * 5000, "'../../etc/passwd'", '"a" "b"', "= 1", "",
)  # fmt: skip
_LINE = re.compile(r"^([\w-]+)\s*=.*$", re.MULTILINE)


class Fuzz(Target):
    """See the module."""

    threat = "a target from elsewhere that ends in a traceback, or sets what no target may"
    refusals = (TargetError,)

    def prepare(self, folder: Path) -> None:
        del folder
        self.texts = [write_target(load_target(name)) for name in target_names()]

    def write(self, random: Random, box: Path) -> None:
        text = random.choice(self.texts)
        for _ in range(random.choice((1, 1, 2, 3))):
            lines = text.split("\n")
            names = _LINE.findall(text) or ["a"]
            place = random.randrange(len(lines))
            name = random.choice((*names, *names, "pickle", "a.b", '"a b"', "[a]", "[[a]]"))
            value = random.choice(_VALUES) if random.random() < 0.7 else repr(random.choice(TEXTS))
            kind = random.randrange(4)
            if kind == 0:
                lines[place] = f"{name} = {value}"
            elif kind == 1:
                lines.insert(place, f"# {random.choice(TEXTS)}")
            elif kind == 2:
                del lines[place]
            else:
                lines = re.sub(rf"^{re.escape(name)}\s*=.*$", "", text, flags=re.MULTILINE).split(
                    "\n"
                )
                lines.append(f"{name} = {value}")
            text = "\n".join(lines)
        content = text.encode("utf-8", "surrogatepass")
        put(box / "board.toml", content if random.random() < 0.85 else damaged(random, content))

    def use(self, box: Path) -> None:
        target = load_target(box / "board.toml")
        write_target(target)
        target.settings()
