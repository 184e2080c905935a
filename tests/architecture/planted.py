"""For each rule of the architecture: code that it must catch and code that it must pass."""

from __future__ import annotations

from collections.abc import Callable

from tests.architecture.rules import (
    Module,
    Violations,
    architecture_names_stay_in_the_backbone,
    communication_lives_in_one_file,
    environment_is_left_alone,
    errors_are_not_swallowed,
    fences_hold,
    import_has_no_effects,
    imports_only_from_the_left,
    modules_are_documented_and_named,
    nothing_unsafe,
    public_names_are_listed,
    recipes_are_data,
)


def in_(name: str, source: str, is_package: bool = False) -> Module:
    return Module(name, source, is_package)


Rule = Callable[[Module], Violations]
# rule: (code that it must catch, code that it must pass)
RULES: dict[Rule, tuple[list[Module], list[Module]]] = {
    imports_only_from_the_left: (
        [
            in_("mmembed.inputs.media", "from mmembed.encoder.head import normalize"),
            in_("mmembed.types", "def f():\n    import mmembed.config"),
            in_("mmembed.data.mixture", "if TYPE_CHECKING:\n    from mmembed import training"),
            in_("mmembed.data", "from ..soup import soup", True),
            in_("mmembed.data.mixture", "from ..training import trainer"),
            in_("mmembed.search.store", "importlib.import_module('mmembed.training.trainer')"),
            in_("mmembed.server", "import mmembed.demo"),
            in_("mmembed.training.trainer", "from mmembed import Embedder"),
            in_("mmembed.attic", "import mmembed.errors"),
        ],
        [
            in_("mmembed.encoder.embedder", "from mmembed.inputs.media import MediaPolicy"),
            in_("mmembed.losses.masks", "from mmembed.losses.pools import columns"),
            in_("mmembed.losses.masks", "from .pools import columns"),
            in_("mmembed.search.store", "from mmembed import __version__"),
            in_("mmembed", "from mmembed.encoder.embedder import Embedder"),
        ],
    ),
    fences_hold: (
        [
            in_("mmembed.search.store", "from mmembed.losses import info_nce"),
            in_("mmembed.server", "def f():\n    from mmembed.training.trainer import train"),
            in_("mmembed.losses.masks", "from mmembed.types import Task"),
            in_("mmembed.losses.masks", "import numpy as np"),
            in_("mmembed.quickstart", "import data_adapters.emoji"),
            in_("mmembed.quickstart", "ADAPTER = 'data_adapters.emoji:Emoji'"),
            in_("data_adapters.emoji", "from mmembed.inputs.media import MediaPolicy"),
        ],
        [
            in_("mmembed.losses.masks", "import math\nimport torch\nimport mmembed.errors"),
            in_("mmembed.training.trainer", "from mmembed.losses import info_nce"),
            in_("data_adapters.emoji", "from mmembed.types import Image\nimport pyarrow"),
            in_("data_adapters.mmeb.files", "from mmembed.errors import DataError"),
            in_("mmembed.data.adapter", "'''As in data_adapters.emoji:Emoji.'''"),
        ],
    ),
    communication_lives_in_one_file: (
        [
            in_("mmembed.losses.info_nce", "import torch.distributed as dist"),
            in_("mmembed.losses.info_nce", "def f():\n    from torch import distributed"),
            in_("mmembed.training.trainer", "from torch.distributed.nn import all_gather"),
            in_("mmembed.training.trainer", "import torch\ntorch.distributed.get_rank()"),
        ],
        [in_("mmembed.training.distributed", "import torch.distributed as dist")],
    ),
    architecture_names_stay_in_the_backbone: (
        [
            in_("mmembed.encoder.encoder", "from transformers import Qwen2VLModel"),
            in_("mmembed.encoder.checkpoint", "if kind == 'qwen2_vl': pass"),
            in_("mmembed.encoder.qwen", "pass"),
            in_("data_adapters.pairs", "def f(siglip_head): pass"),
        ],
        [
            in_("mmembed.encoder.backbone", "from transformers import Qwen2VLModel"),
            in_("mmembed.inputs.media", "from qwen_vl_utils import smart_resize"),
            in_("mmembed.cli", "raise ConfigError('only Qwen2-VL folders have it')"),
            in_("mmembed.inputs.tokens", "'''Of Qwen2-VL.'''\nPAD = '<|image_pad|>'"),
        ],
    ),
    recipes_are_data: (
        [
            in_("mmembed.losses.info_nce", "def rzen_loss(): pass"),
            in_("mmembed.training.stages", "if recipe.name == 'kalm': pass"),
            in_("mmembed.training.stages", "name.startswith('QZhou')"),
            in_("mmembed.training.stages", "DEFAULTS = {'rzen_release': 0.02}"),
            in_("mmembed.training.stages", "match name:\n    case 'kalm_v2': pass"),
        ],
        [in_("mmembed.encoder.scratch", "'''As RzenEmbed.'''\ndef f(prompt='rzen_release'): pass")],
    ),
    nothing_unsafe: (
        [
            in_("mmembed.data.mining", "import pickle"),
            in_("mmembed.evaluation.pickled_vectors", "import pickle\npickle.load(file)"),
            in_("mmembed.soup", "import torch\ntorch.load(path)"),
            in_("mmembed.soup", "from torch import load"),
            in_("mmembed.soup", "import torch as t\nt.load(path)"),
            in_("mmembed.config", "eval(text)"),
            in_("mmembed.config", "import yaml\nyaml.load(text)"),
            in_("mmembed.config", "import yaml\nyaml.load(text, Loader=yaml.Loader)"),
            in_("mmembed.config", "import yaml\nclass L(yaml.Loader): pass\nyaml.load(t, L)"),
            in_("mmembed.encoder.backbone", "f(p, trust_remote_code=True)"),
            in_("mmembed.encoder.backbone", "f(p, trust_remote_code=yes)"),
            in_("mmembed.inputs.media", "import subprocess\nsubprocess.run(c, shell=True)"),
            in_("mmembed.inputs.media", "def f():\n    import requests"),
            in_("mmembed.inputs.media", "from urllib.request import urlopen"),
            in_("mmembed.inputs.media", "import urllib\nurllib.request.urlopen(u)"),
            in_("mmembed.search.store", "import numpy as np\nnp.load(p, allow_pickle=True)"),
            in_("mmembed.search.store", "print('x')"),
        ],
        [
            in_("mmembed.evaluation.pickled_vectors", "import pickle\npickle.Unpickler"),
            in_("mmembed.inputs.fetch", "import http.client, socket"),
            in_("mmembed.types", "from urllib.parse import urlsplit"),
            in_("mmembed.encoder.backbone", "f(p, trust_remote_code=False)"),
            in_(
                "mmembed.config", "import yaml\nyaml.safe_load(text)\nmodel.eval()\nre.compile('')"
            ),
        ],
    ),
    errors_are_not_swallowed: (
        [
            in_("mmembed.inputs.media", "try: f()\nexcept: pass"),
            in_("mmembed.inputs.media", "try: f()\nexcept BaseException: pass"),
        ],
        [
            in_("mmembed.inputs.media", "try: f()\nexcept OSError: pass"),
            in_("mmembed.inputs.media", "try: f()\nexcept BaseException:\n    g()\n    raise"),
        ],
    ),
    environment_is_left_alone: (
        [
            in_("mmembed.cli", "import os\nos.environ['A'] = '1'"),
            in_("mmembed.cli", "from os import environ\nenviron.setdefault('A', '1')"),
            in_("mmembed.cli", "import os\ndef f():\n    del os.environ['A']"),
        ],
        [in_("mmembed.cli", "import os\nos.environ.get('A'), os.environ['B']")],
    ),
    import_has_no_effects: (
        [
            in_("mmembed.cli", "import warnings\nwarnings.filterwarnings('ignore')"),
            in_("mmembed.cli", "import torch\nif True:\n    torch.manual_seed(0)"),
            in_("mmembed.cli", "import logging\nlogging.getLogger('x').setLevel('INFO')"),
            in_("mmembed.cli", "import numpy as np\nclass A:\n    np.random.seed(0)"),
        ],
        [in_("mmembed.cli", "import torch\ndef main():\n    torch.manual_seed(0)")],
    ),
    modules_are_documented_and_named: (
        [
            in_("mmembed.soup", "x = 1"),
            in_("mmembed.utils", "'''Things.'''"),
            in_("mmembed.data.adapter", "'''Doc.'''\nclass AbsAdapter: pass"),
            in_("mmembed.data", "'''Doc.'''\nimport torch", True),
            in_("mmembed.soup", "'''Doc.'''\nimport torch", True),
            in_("mmembed.soup", "'''Doc.'''\nfrom mmembed.data.x import y", True),
            in_("mmembed.soup", "'''Doc.'''\nx = make()", True),
        ],
        [
            in_("mmembed.soup", "'''Averages checkpoints.'''"),
            in_("mmembed.data", "'''Data.'''", True),
            in_("mmembed", "'''Doc.'''\nimport importlib", True),
            in_("mmembed.soup", "'''Doc.'''\nfrom mmembed.soup.x import y\n__all__ = ['y']", True),
        ],
    ),
    public_names_are_listed: (
        [
            in_("mmembed.soup", "def soup(): pass"),
            in_("mmembed.soup", "__all__ = ['soup']"),
            in_("mmembed.soup", "__all__ = ['soup']\ndef soup(): pass\ndef stock(): pass"),
        ],
        [
            in_("mmembed.soup", "def _weights(): pass\nlogger = 1"),
            in_("mmembed.soup", "__all__ = ['A', 'B']\nA: int = 1\nfrom x import B"),
            in_("mmembed.cli", "@app.command()\ndef train(): pass"),
        ],
    ),
}
