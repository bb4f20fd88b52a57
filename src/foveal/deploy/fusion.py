"""Batch norms taken up by the convolutions before them, and parallel convolutions made one, in any torch model.

In eval mode a batch norm is one scale and shift per channel, s = gamma / sqrt(var + eps) and beta - s * mean. Hence

    BN(conv(x))            is a convolution with weight s * weight and bias s * (bias - mean) + beta
    conv_a(x) + conv_b(x)  is one with the sum of both kernels, the smaller with zeros around it
    conv(x) + BN(x)        likewise, as BN is a 1x1 convolution with s on the diagonal

What feeds what is read off a graph that torch.fx makes by running `forward` on stand-ins. Where that fails (the forward
looks at values) the children are tried one by one.
"""

import collections
import copy
import functools
import inspect
import operator
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import REFUSALS, UserError

# A norm of other dimensions refuses the convolution's output, or takes another dimension for the channels.
_NORMS = {
    getattr(nn, f"{conv}{n}d"): getattr(nn, f"BatchNorm{n}d") for conv in ("Conv", "ConvTranspose") for n in (1, 2, 3)
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OPERATORS = (operator.add, operator.iadd)

# fx raises where it must know a value (TraceError, a ValueError; TypeError) or has no node for something (NameError,
# NotImplementedError, a RuntimeError); a forward, where it finds no tensor in its input.
_UNTRACEABLE = (*REFUSALS, NameError)


class Zero(nn.Module):
    """What is left of a branch that another one has taken up: a term that adds nothing."""

    def forward(self, x: Tensor) -> int:
        """The number 0, which fits a sum of any shape."""
        return 0


Zero.__module__ = "foveal.fusion"  # as files name it
torch.serialization.add_safe_globals([Zero])


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a model for inference: the same `forward` up to rounding, from fewer layers.

    A convolution (1 to 3 dimensions, transposed or not) takes up the batch norm that alone reads it. Of a layer that is
    a batch norm and then calls other parts of itself, such as an activation (timm's BatchNormAct2d) or an attention,
    these parts are left. Of a sum whose terms are all a Conv2d or BatchNorm2d of the same tensor, the largest
    convolution takes up the others. `Identity` and `Zero` are left in the places of what was taken up. A module that
    knows a cheaper form of itself (`folded()`, as attentions and their identity start do) becomes that; all other names
    of the state dict stay. `left` names the norms that were not taken up.

    Not fused, because it would be another function or nobody can tell:
        - a norm before a convolution, a norm that is no batch norm, a batch norm without running statistics;
        - Linear with BatchNorm1d: on (N, L, C) they disagree which dimension holds the channels, on (N, C) they do
          not, and no graph tells which it is. (Conv1d would be as wrong on an input without batch dimension.)
        - a layer that has hooks, a forward of its own, a parametrization or an attention, that is called or registered
          twice, or whose weights something else reads;
        - a sum with another term, such as the input in a residual block;
        - the members of an `nn.Sequential` in a module that fx cannot trace, as they may be called one by one there.
          Fuse that Sequential by itself if it is called as a whole.

    Layers are taken to be called by `forward` alone, and as for all of fx an input is neither None nor a `Tensor` to
    `isinstance`.

    Args:
        model: any module in eval mode. It is left as it is: keep it to train on.

    Returns:
        The fused copy. If it can tell whether it is fused (`is_fused()`, as in Ultralytics), it says that it is.

    Raises:
        UserError: the model or one of its batch norms is in train mode.
    """
    for name, module in model.named_modules():
        if module.training and (module is model or isinstance(module, _BatchNorm)):
            what = f"{name or 'model'} is in train mode, where batch norms depend on the batch"
            raise UserError(what, "call model.eval() first")
    fused = copy.deepcopy(model)
    for module in [*fused.modules()]:
        if callable(fold := getattr(module, "folded", None)) and not _watched(module) and (folded := fold()):
            _become(module, folded)
    names = collections.Counter(module for _, module in fused.named_modules(remove_duplicate=False))
    _fuse_inside(fused, {module for module, count in names.items() if count > 1})
    for module in fused.modules():
        if callable(getattr(module, "is_fused", None)):
            # Else it would fuse again, and miss the norms. A partial unpickles without foveal.
            vars(module)["is_fused"] = functools.partial(bool, True)
    return fused


def left(model: nn.Module) -> list[str]:
    """The names of the norms with running statistics in a model: of a fused one those that no convolution took up."""
    return [name for name, module in model.named_modules() if isinstance(getattr(module, "running_mean", None), Tensor)]


def _fuse_inside(root: nn.Module, shared: set[nn.Module], called: bool = True) -> None:
    """Fuse what is below `root`, by its forward if that is what is `called`."""
    if next(root.children(), None) is None:  # not worth a copy
        return
    graph = _trace(root) if called else None
    if graph is None:
        for child in root.children():
            # A Sequential may be no more than a list to an owner that was not traced.
            _fuse_inside(child, shared, called=type(child) is not nn.Sequential)
        return
    calls = collections.Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    own = {  # the layers that serve one node only
        node: layer
        for node in graph.nodes
        if node.op == "call_module" and calls[node.target] == 1 and node.target not in read
        if (layer := root.get_submodule(node.target)) not in shared and not _watched(layer)
    }
    _fuse_pairs(graph, own)
    _merge_branches(graph, own)
    for name in calls:
        _fuse_inside(root.get_submodule(name), shared)


def _trace(module: nn.Module) -> fx.Graph | None:
    if "forward" in vars(module):  # fx would trace the one of the class
        return None
    try:
        return _Tracer().trace(copy.deepcopy(module))  # a forward may keep a stand-in
    except _UNTRACEABLE:
        return None


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else a buffer that a forward reads becomes a constant of unknown origin

    def is_leaf_module(self, m, module_qualified_name):
        # Not where the class comes from, as fx has it: a subclass without a forward of its own is torch's layer, too.
        home = next(cls for cls in type(m).__mro__ if "forward" in vars(cls)).__module__
        torchs = home.startswith(("torch.nn.", "torch.ao.nn.")) and not isinstance(m, nn.Sequential)
        # A batch norm is looked into by itself. And no hook is to run on a stand-in.
        return torchs or isinstance(m, _BatchNorm) or _watched(m)

    def call_module(self, m, forward, args, kwargs):
        if type(m) is nn.Identity and args and not _watched(m):
            return args[0]
        return super().call_module(m, forward, args, kwargs)


def _watched(module: nn.Module) -> bool:
    """Whether others see or replace what it computes."""
    return "forward" in vars(module) or any(getattr(module, hooks) for hooks in _HOOKS)


class _OneCall(_Tracer):
    """A tracer of what one forward calls."""

    def is_leaf_module(self, m, module_qualified_name):
        return True


def _after(layer: Any, kind: type[nn.Module]) -> dict[str, nn.Module] | None:
    """The parts that a layer calls one after the other after the batch norm `kind` that it is; None if it is none.

    The norm is from running statistics; of a norm of torch's nothing comes after.
    """
    cls = type(layer)
    if not issubclass(cls, kind) or cls.__call__ is not nn.Module.__call__ or layer.running_mean is None:
        return None
    if cls.forward is _BatchNorm.forward:
        return {}
    stand_in = copy.copy(layer)
    stand_in._check_input_dim = lambda _: None  # which looks at sizes
    try:
        graph = _OneCall().trace(stand_in)
    except _UNTRACEABLE:
        return None
    (x,) = (node for node in graph.nodes if node.op == "placeholder")
    names: list[str] = []
    node = next(node for node in graph.nodes if node.op == "output").args[0]
    while isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        names.insert(0, str(node.target))
        node = node.args[0]
    simple = len({*names}) == len(names) and not any("." in name for name in names)
    return {name: getattr(layer, name) for name in names} if simple and _normalises(node, x, layer) else None


def _normalises(node: object, x: fx.Node, layer: Any) -> bool:
    """Whether a node is the batch norm of `x` by the tensors of `layer` of these names."""
    if not isinstance(node, fx.Node) or node.target is not F.batch_norm:
        return False
    given = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    tensors = {name: given.arguments[name] for name in ("running_mean", "running_var", "weight", "bias")}
    own = all(
        getattr(layer, name) is None if tensor is None else isinstance(tensor, fx.Node) and tensor.target == name
        for name, tensor in tensors.items()
    )
    return (
        own
        and given.arguments["input"] is x
        and not given.arguments["training"]
        and given.arguments["eps"] == layer.eps
    )


def _fuse_pairs(graph: fx.Graph, own: dict[fx.Node, Any]) -> None:
    for node, norm in own.items():
        source = next(iter(node.all_input_nodes), None)
        conv = own.get(source) if source else None
        if source is None or conv is None or type(conv) not in _NORMS or len(source.users) > 1:
            continue
        after = _after(norm, _NORMS[type(conv)])
        if after is None:
            continue
        scale, shift = _scale_and_shift(norm)
        bias = _exact(conv.bias) * scale + shift
        if conv.transposed:  # weight: [in, out / groups, ...]
            scale = scale.view(conv.groups, -1).repeat_interleave(conv.in_channels // conv.groups, 0)
        else:
            scale = scale.unsqueeze(1)
        _set(conv, _exact(conv.weight) * scale[(..., *[None] * len(conv.kernel_size))], bias)
        if after:
            _become(norm, nn.Sequential(collections.OrderedDict(after)))
        else:
            _become(norm, nn.Identity())
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _merge_branches(graph: fx.Graph, own: dict[fx.Node, Any]) -> None:
    nodes = list(graph.nodes)
    for total in filter(_is_addition, reversed(nodes)):  # a sum before its parts
        additions, terms = _flatten(total)
        hosts = [term for term in terms if _is_plain(own.get(term))]
        if not hosts or len(terms) == 1:
            continue
        host = max(hosts, key=lambda term: own[term].weight[0, 0].numel())
        branches = [branch for term in terms if (branch := _as_branch(own.get(term), own[host]))]
        first, *_, last = sorted(map(nodes.index, terms))
        if (
            len(branches) == len(terms)
            and len({term.all_input_nodes[0] for term in terms}) == 1
            and all(len(term.users) == 1 for term in terms)
            and len({*terms}) == len(terms)  # y + y has one user
            # Anything else in between may change their input in place.
            and {*nodes[first:last]} <= {*terms, *additions}
            # 0 + x is x, but torch.add(0, x) is an error.
            and all(host in _flatten(each.args[0])[1] for each in additions if each.target not in _OPERATORS)
        ):
            weights, biases = zip(*branches, strict=True)
            _set(own[host], sum(weights), sum(biases))
            for term in {*terms} - {host}:
                _become(own[term], Zero())


def _is_addition(node: object) -> TypeGuard[fx.Node]:
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
        return False
    return node.target in (*_OPERATORS, torch.add, "add") and len(node.args) == 2 and not node.kwargs


def _flatten(total: Any) -> tuple[list[fx.Node], list[fx.Node]]:
    """The additions that make up a sum, and its terms without the numbers, such as the 0 of Python's `sum`."""
    if not _is_addition(total):
        return [], [total]
    additions: list[fx.Node] = [total]
    terms: list[fx.Node] = []
    for addition in additions:
        for arg in addition.args:
            if _is_addition(arg) and len(arg.users) == 1:
                additions.append(arg)
            elif isinstance(arg, fx.Node):
                terms.append(arg)
    return additions, terms


def _is_plain(conv: object) -> TypeGuard[nn.Conv2d]:
    return type(conv) is nn.Conv2d and not isinstance(conv.padding, str)


def _as_branch(layer: Any, host: nn.Conv2d) -> tuple[Tensor, Tensor] | None:
    """Weight and bias with which a convolution like `host` computes `layer`; None if it cannot."""
    if _is_plain(layer) and _grid(layer) == _grid(host):
        weight, bias = _exact(layer.weight), _exact(layer.bias).expand(host.out_channels)
    elif _after(layer, nn.BatchNorm2d) == {} and _grid(host)[:4] == (layer.num_features, host.groups, (1, 1), (0, 0)):
        scale, bias = _scale_and_shift(layer)
        diagonal = torch.eye(len(scale) // host.groups, dtype=scale.dtype).repeat(host.groups, 1)
        weight = (scale.unsqueeze(1) * diagonal)[..., None, None]
    else:
        return None
    rows, columns = (large - small for large, small in zip(host.kernel_size, weight.shape[2:], strict=True))
    if min(rows, columns) < 0 or rows % 2 or columns % 2:
        return None
    return F.pad(weight, [columns // 2, columns // 2, rows // 2, rows // 2]), bias


def _grid(conv: nn.Conv2d) -> tuple:
    """What convolutions share whose outputs lie on one grid; the fourth is the rows and columns that are lost."""
    assert not isinstance(conv.padding, str)
    sizes = zip(conv.dilation, conv.kernel_size, conv.padding, strict=True)
    lost = tuple(d * (k - 1) - 2 * p for d, k, p in sizes)
    return conv.out_channels, conv.groups, conv.stride, lost, conv.dilation, conv.padding_mode


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    scale = (_exact(norm.running_var) + norm.eps).rsqrt() * _exact(norm.weight, 1.0)
    return scale, _exact(norm.bias) - _exact(norm.running_mean) * scale


def _exact(tensor: Tensor | None, default: float = 0.0) -> Tensor:
    """Return a tensor in fp64, on the CPU because not every device has that; `default` stands for no tensor."""
    return torch.tensor(default).double() if tensor is None else tensor.to("cpu", torch.float64)


def _become(layer: nn.Module, other: nn.Module) -> None:
    """Not by a new entry in the parent, because a forward may hold the layer in a plain list too."""
    layer.__class__, layer.__dict__ = type(other), vars(other.eval())


def _set(conv: Any, weight: Tensor, bias: Tensor) -> None:
    like = conv.weight
    conv.weight, conv.bias = (nn.Parameter(new.to(like), requires_grad=like.requires_grad) for new in (weight, bias))
