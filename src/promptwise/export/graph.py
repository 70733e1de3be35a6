"""The forward pass of a model as one graph of batches of any size and length: ``torch.export`` and ONNX.

Letters as in ``docs/notation.md``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptwise.errors import BackboneError, ConfigError
from promptwise.strategies.networks.recurrence import PaddedLSTM
from promptwise.tasks.batching import collate
from promptwise.tasks.template import Features

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel

OUTPUT = "logits"
"""The name of the graph's one output."""
OPSET = 20
"""The version of ONNX's operators; onnxruntime knows it from 1.17 on."""
MOST_ROWS = 2**16
"""The largest batch that the graph is promised for."""
SINGLE_FILE = 2**31 - 2**24
"""A file of ONNX holds at most 2 GiB; the weights of larger models go into a file beside it."""


def input_names(model: PromptedModel) -> tuple[str, ...]:
    """What the graph of a model is given, all of it int64: ``[B, T]``, and ``[B]`` for ``mask_position``.

    ``text_mask`` says which tokens are of the input's own text. Where a template or words of the task stand beside it
    nothing else could; elsewhere the graph finds them itself, as all real tokens but special ones.
    """
    form = model.input_format
    names = ["input_ids", "attention_mask"]
    if form.token_types and form.spec.text_pair is not None and not form.cloze:
        names.append("token_type_ids")
    if form.cloze or form.hard_prompt:
        names.append("text_mask")
    if form.cloze and form.mask_token_id is not None:
        names.append("mask_position")
    return tuple(names)


class Graph(nn.Module):
    """What is exported: from inputs in the order of :func:`input_names` to logits ``[B, C]``.

    Args:
        model: The model, in evaluation mode, in float32 on the CPU.
    """

    special: Tensor

    def __init__(self, model: PromptedModel) -> None:
        super().__init__()
        self.model, self.names = model, input_names(model)
        tokenizer = model.backbone.tokenizer
        special = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
        self.register_buffer("special", torch.tensor(special, dtype=torch.long), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        given = dict(zip(self.names, inputs, strict=True))
        ids = given["input_ids"]
        if "text_mask" not in given:
            # A tokenizer may have no such token, and onnxruntime finds the largest of none to be anything.
            own = torch.ones_like(ids, dtype=torch.bool)
            given["text_mask"] = ~(ids.unsqueeze(-1) == self.special).any(-1) if len(self.special) else own
        if self.model.input_format.token_types and "token_type_ids" not in given:
            # One text, or a template: all tokens are of the first type.
            given["token_type_ids"] = torch.zeros_like(ids)
        logits: Tensor = self.model(**given).logits
        return logits


def batch_of(model: PromptedModel, rows: Sequence[Features]) -> dict[str, Tensor]:
    """The inputs of the graph, padded to the longest of some features."""
    batch = collate(rows, model.backbone.tokenizer.pad_token_id or 0)
    return {name: batch[name].long() for name in input_names(model)}


def check_for_torch(model: PromptedModel) -> None:
    """Refuse what has a graph that only promptwise could run.

    Raises:
        ConfigError: Names the setting, and what to do.
    """
    if any(isinstance(part, PaddedLSTM) for part in model.modules()):
        raise ConfigError(
            "--torch cannot export --encoder rnn: its recurrence is an operation of promptwise, which a .pt2 file does "
            "not hold. Use --onnx, which has an LSTM of its own, or train with --encoder cnn or mlp."
        )


def require_onnx() -> None:
    """Make sure that what writes and runs ONNX is installed.

    Raises:
        ConfigError: It is not.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--onnx needs {', '.join(missing)}: pip install 'promptwise[export]'.")


def traced(model: PromptedModel, rows: Sequence[Features]) -> torch.export.ExportedProgram:
    """The graph by ``torch.export``, for 1 to 65,536 rows of 1 to ``max_tokens`` tokens.

    Args:
        model: The model, in float32 on the CPU.
        rows: Features of a few inputs of several tokens, on which the way through the model is found.

    Raises:
        BackboneError: torch finds no such graph.
    """
    graph = Graph(model).eval()
    batch = batch_of(model, rows)
    size = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    length = torch.export.Dim("length", min=1, max=model.input_format.max_tokens)
    shapes = tuple({0: size, 1: length} if value.dim() == 2 else {0: size} for value in batch.values())
    try:
        with torch.no_grad(), _quiet():
            # Parts of the layers are made when they are first asked for, which they cannot be inside of a graph.
            graph(*batch.values())
            program = torch.export.export(
                graph,
                tuple(batch.values()),
                dynamic_shapes=(shapes,),
                strict=False,
                # What torch cannot prove of all lengths, such as that a number is no larger than its double, is checked
                # when the graph runs instead.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            return _without_checks(program)
    except Exception as error:
        raise BackboneError(
            f"torch.export finds no graph of {model.backbone.model_type} ({model.backbone.name}) with --base "
            f"{model.prompt_config.base} and --strategy {model.prompt_config.strategy}: {_cause(error)}"
        ) from error


def _without_checks(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The graph without its checks of lengths: torch writes that there must not be one row, or not one token, where it
    looked at neither, and a graph is compared with the model before anybody gets it.
    """
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
                part.graph.erase_node(node)
            part.recompile()
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say to their own developers."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")
    before = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def write_onnx(program: torch.export.ExportedProgram, names: Sequence[str], path: Path) -> None:
    """Write a graph of :func:`traced` as ONNX, its weights in the same file where they fit.

    Args:
        program: The graph.
        names: Of its inputs.
        path: The file; a model above 2 GiB has its weights in a file beside it, named in the graph.

    Raises:
        BackboneError: torch cannot write an operation of the graph as ONNX.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    try:
        with torch.no_grad(), _quiet():
            written = torch.onnx.export(
                program,
                input_names=list(names),
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                external_data=size > SINGLE_FILE,
                custom_translation_table={
                    torch.ops.promptwise.recurrence.default: _onnx_recurrence,
                    torch.ops.aten.searchsorted.Tensor: _onnx_searchsorted,
                },
            )
            assert written is not None
            written.save(path, external_data=size > SINGLE_FILE)
    except Exception as error:
        raise BackboneError(f"torch cannot write the graph as ONNX: {_cause(error)}") from error


def _onnx_recurrence(gates: Any, weights: Any) -> tuple[Any, Any, Any]:
    """:func:`~promptwise.strategies.networks.recurrence.recurrence` with ONNX's LSTM, a direction at a time.

    Its input is what the inputs add to the gates already, so the matrix for inputs just puts the gates into ONNX's
    order: input, output, forget, cell.
    """
    from onnxscript import opset20 as op

    width = int(weights.shape[2])
    order = [0, 3, 1, 2]
    rows = torch.cat([torch.arange(width) + place * width for place in order])
    sorting = op.Constant(value=_onnx_tensor(torch.eye(4 * width)[rows].unsqueeze(0)))
    chosen = op.Constant(value_ints=rows.tolist())
    states = []
    for way in (0, 1):
        number = op.Constant(value_ints=[way])
        entering = op.Squeeze(op.Gather(gates, number, axis=1), op.Constant(value_ints=[1]))
        across = op.Gather(op.Gather(weights, number, axis=0), chosen, axis=1)
        every, _, _ = op.LSTM(entering, sorting, across, hidden_size=width)
        states.append(every)
    both = op.Concat(*states, axis=1)
    return both, gates, both


def _onnx_searchsorted(ordered: Any, values: Any, **options: Any) -> Any:
    """``torch.searchsorted``, how many of ``ordered`` ``[N]`` are below each value, which is found bit by bit."""
    from onnxscript import opset20 as op

    count = int(ordered.shape[0])
    last, whole = (op.Constant(value_int=number) for number in (count - 1, count))
    found = op.Mul(op.Cast(values, to=_INT64), op.Constant(value_int=0))
    for bit in range(count.bit_length() - 1, -1, -1):
        tried = op.Add(found, op.Constant(value_int=1 << bit))
        below = op.Less(op.Gather(ordered, op.Min(op.Sub(tried, op.Constant(value_int=1)), last)), values)
        found = op.Where(op.And(op.LessOrEqual(tried, whole), below), tried, found)
    return found


_INT64 = 7
"""The number that ONNX has for the type."""


def _onnx_tensor(values: Tensor) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(values.numpy())


def write_int8(source: Path, path: Path) -> None:
    """Quantise the matrices of an ONNX file to int8 with onnxruntime's tool; activations are, as the graph runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        # A scale of its own for each column: as fast, and labels of MiniLM change in 3 rows of 100 instead of 7.
        quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)


def _cause(error: BaseException) -> str:
    """The innermost reason of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
