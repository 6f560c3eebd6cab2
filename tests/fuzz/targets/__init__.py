"""The targets by name: a module each, which has a class `Fuzz`, a `fuzz.base.Target`."""

TARGETS: dict[str, str] = {
    "manifest": "fuzz.targets.manifest",
    "using": "fuzz.targets.using",
    "selftest": "fuzz.targets.selftest",
    "config": "fuzz.targets.config",
    "safetensors": "fuzz.targets.safetensors",
    "graph": "fuzz.targets.graph",
    "ort": "fuzz.targets.ort",
    "answer": "fuzz.targets.answer",
    "gguf": "fuzz.targets.gguf",
    "picture": "fuzz.targets.picture",
    "clip": "fuzz.targets.clip",
    "template": "fuzz.targets.template",
    "tokenizer": "fuzz.targets.tokenizer",
    "questions": "fuzz.targets.questions",
    "device": "fuzz.targets.device",
    "request": "fuzz.targets.request",
}
