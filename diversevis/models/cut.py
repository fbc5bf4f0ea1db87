"""A traced graph, cut off at its target layer, with weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diversevis.models.trace import TracedModel, module_of


def cut_off(
    traced: TracedModel,
    outputs: Sequence[fx.Node],
    tensors: Mapping[str, Tensor],
    adapt: partial[Tensor] | None,
) -> fx.GraphModule:
    """The part of the graph that ends in `outputs`, frozen; the traced model stays as it was.

    tensors  by state-dict name, all that the outputs depend on
    adapt    a function of the image with which the graph begins; None: the image itself

    Raises an error of any kind for modules that cannot be copied or loaded.
    """
    module = _truncate(traced, outputs)
    # Not strict: batch norm's step counters are left out, and torch sets them to 0.
    module.load_state_dict(tensors, strict=False, assign=True)
    _fold_batch_norm(module)
    if adapt is not None:
        _insert(module, adapt)
    return module.float().eval().requires_grad_(False)  # not stored tensors may be float64


def _insert(module: fx.GraphModule, adapt: partial[Tensor]) -> None:
    """Let the graph begin with `adapt`."""
    image = next(node for node in module.graph.nodes if node.op == "placeholder")
    with module.graph.inserting_after(image):
        adapted = module.graph.call_function(adapt.func, kwargs=adapt.keywords)
    image.replace_all_uses_with(adapted)
    adapted.args = (image,)
    module.recompile()


def _truncate(traced: TracedModel, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """A copy of the graph that ends in `outputs`; modules not on the path to them are left out."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    needed = set[fx.Node]().union(*(traced.ancestors(node) for node in outputs))
    for node in traced.graph.nodes:
        if node in needed:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in outputs))
    return copy.deepcopy(fx.GraphModule(traced.root, graph))  # the traced model must not change


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """Merge batch norm (eval mode) into the convolution before it, if no other step reads that."""
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        norm = module_of(module, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        source = node.all_input_nodes[0]
        convolution = module_of(module, source)
        alone = len(source.users) == 1 and calls[source.target] == calls[node.target] == 1
        if isinstance(convolution, nn.Conv2d) and alone:
            fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
            module.set_submodule(str(source.target), fused)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
