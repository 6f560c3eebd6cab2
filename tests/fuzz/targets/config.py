"""Every JSON of a checkpoint: its configuration, how it answers, its processors and its tokenizer's
settings, as an export reads them before any work. Some have settings more that name files."""

import json
from pathlib import Path
from random import Random

from fuzz.added_settings import added, names_read, put_beside
from fuzz.base import Target, link_all, put
from fuzz.byte_changes import damaged
from fuzz.json_changes import changed, written
from make_checkpoint import HUB_PRESETS, PRESETS, make_checkpoint
from pocketvlm_export import ExportOptions, loading
from pocketvlm_export.checkpoint import chat_template, load_image_processor, load_tokenizer
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PLUGINS

_PRESETS = ("tiny-llama", "tiny-llava-next", "tiny-smolvlm", "tiny-qwen2", "tiny-video-llava")
_FILES = (
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "tokenizer_config.json", "special_tokens_map.json", "model.safetensors.index.json",
    "video_preprocessor_config.json", "chat_template.json", "added_tokens.json",
)  # fmt: skip
_GENERATION = {
    "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1,
    "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "max_new_tokens": 30,
    "bad_words_ids": [[1, 2]], "sequence_bias": [[[1], 0.5]], "suppress_tokens": [4],
    "stop_strings": ["a"], "forced_eos_token_id": 2, "min_length": 1,
}  # fmt: skip


class Fuzz(Target):
    """See the module."""

    threat = "a downloaded checkpoint whose settings run code, fill memory, or end in a traceback"
    memory_mb = 400

    def prepare(self, folder: Path) -> None:
        # Metadata of all installed packages, read anew for each export; no input changes it.
        loading.check_transformers = lambda: None
        PLUGINS.check_own = lambda _name: None
        self.names = names_read()
        known = {**PRESETS, **HUB_PRESETS}
        self.roots = [make_checkpoint(known[name], folder / name) for name in _PRESETS]
        for root in self.roots:
            (root / "generation_config.json").write_text(json.dumps(_GENERATION))
            self.use(root)

    def write(self, random: Random, box: Path) -> None:
        root = random.choice(self.roots)
        link_all(root, box)
        present = [name for name in _FILES if (root / name).exists()]
        names = random.choices(present, k=random.choice((1, 1, 1, 2)))
        if random.random() < 0.05:
            names.append(random.choice(_FILES))
        if random.random() < 0.3:
            names.append("config.json")
        named = random.random() < 0.5
        if named:
            names += random.choices(_FILES[:6], k=random.choice((0, 1, 2)))
        if random.random() < 0.2:
            put_beside(random, box)
        for name in dict.fromkeys(names):
            content = (root / name).read_bytes() if (root / name).exists() else b'{"a": 1}'
            document = json.loads(content)
            if named:
                document = added(random, document, self.names)
            if not named or random.random() < 0.2:
                document = changed(random, document)
            content = written(random, document, whole=named)
            put(
                box / name, content if named or random.random() < 0.95 else damaged(random, content)
            )
        if random.random() < 0.1:  # the Hub's cache is made of links, so these are followed
            name = random.choice(present)
            (box / name).unlink()
            (box / name).symlink_to(root / name)

    def use(self, box: Path) -> None:
        checkpoint = inspect_checkpoint(str(box))
        plan = make_plan(checkpoint, ExportOptions())
        chat_template(checkpoint.source.folder)
        load_tokenizer(checkpoint.source.folder)
        load_image_processor(checkpoint.source.folder)
        if self.number % 3:
            return
        family, weights, spec = plan.spec.family, plan.checkpoint.weights, plan.spec
        family.load_constants(weights, spec)
        family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
        family.load_projector(weights, spec)
        family.load_embedding(weights, spec)
        family.load_decoder(weights, spec, attention="eager")
