"""`--upstream PATH`: a checkout of the published code as an opponent, here a fake one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the benchmarks are installed nowhere
    sys.path.insert(0, str(ROOT))

from benchmarks import sizes, workload
from benchmarks.upstream import Upstream

BUILDER = """
import types
import torch
from tempo.constants import IMAGE_TOKEN_INDEX

class Model(torch.nn.Module):
    def __init__(self, names):
        super().__init__()
        self.table = {}
        for number, (name, tensor) in enumerate(names.items()):
            self.table[name] = torch.nn.Parameter(torch.zeros_like(tensor))
        self.config = types.SimpleNamespace()

    def named_parameters(self):
        return iter(self.table.items())

    def generate(self, ids, **options):
        assert IMAGE_TOKEN_INDEX in ids[0].tolist()
        assert options["vlm_inputs"]["pixels"].sum() == 0 and not options["do_sample"]
        self.seen = options
        return torch.arange(options["max_new_tokens"])[None]

def load_pretrained_model(path, device_map, device):
    from safetensors.torch import load_file
    model = Model(load_file(path + "/model.safetensors"))
    return "tokenizer", model, ["processor"]
"""
DATA = """
import torch

def process_qwen_content(frames, kind, query, processor, fps, window, stride, is_eval):
    assert (kind, processor, is_eval) == ("video", "processor", True)
    count = -(-len(frames) // window)
    return {"video_grid_thw": torch.zeros(count, 3), "pixels": torch.zeros(4)}

def compute_segment_timestamp(count, tokenizer, fps, stride, window):
    return list(range(count))

def tokenizer_image_token(prompt, tokenizer, index, return_tensors):
    assert prompt == "user: <image>\\nWho?|"
    return torch.tensor([1, index, 2])
"""
CONVERSATION = """
class Talk:
    roles = ("user: ", "assistant: ")
    def __init__(self):
        self.text = ""
    def copy(self):
        return Talk()
    def append_message(self, role, message):
        self.text += f"{role}{message}" if message else "|"
    def get_prompt(self):
        return self.text

conv_templates = {"qwen": Talk()}
"""
CONSTANTS = 'DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX = "<image>", -200\n'


@pytest.fixture(scope="module")
def models():
    return sizes.load_size("tiny", torch.device("cpu"))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a package `tempo` whose modules are forgotten again."""
    package = tmp_path / "checkout" / "tempo"
    package.mkdir(parents=True)
    parts = {
        "__init__": "",
        "builder": BUILDER,
        "mm_datautils": DATA,
        "conversation": CONVERSATION,
        "constants": CONSTANTS,
    }
    for name, text in parts.items():
        (package / f"{name}.py").write_text(text)
    yield package.parent
    for name in [name for name in sys.modules if name.partition(".")[0] == "tempo"]:
        del sys.modules[name]


def test_it_answers_with_the_engines_weights(checkout, models):
    before = list(sys.path)
    upstream = Upstream(checkout, models)
    assert sys.path == before
    weights = models.engine.checkpoint.model.checkpoint_targets()
    assert all(torch.equal(upstream._model.table[n], tensor) for n, tensor in weights.items())
    video = workload.make_video(12, *models.frame)
    answer = upstream.answer(video, 2.0, "Who?", budget=77, max_new_tokens=5)
    assert answer.token_ids == [0, 1, 2, 3, 4]
    assert upstream._model.config.visual_token_budget == 77
    assert upstream._model.seen["seg_timestamps"] == [0, 1]
    assert set(answer.timings) == {"prepare", "generate"}


def test_another_folder_is_refused(tmp_path, models):
    with pytest.raises(pytest.UsageError, match=r"no tempo/builder\.py in it"):
        Upstream(tmp_path, models)


def test_a_checkout_that_lacks_its_requirements_is_refused(checkout, models):
    (checkout / "tempo" / "mm_datautils.py").write_text("import a_library_that_nobody_has\n")
    with pytest.raises(pytest.UsageError, match=r"a_library_that_nobody_has.*requirements\.txt"):
        Upstream(checkout, models)


def test_weights_without_a_folder_are_refused(checkout, models):
    from dataclasses import replace

    with pytest.raises(pytest.UsageError, match="has none: take --size tiny"):
        Upstream(checkout, replace(models, folder=None))
