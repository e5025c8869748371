"""DeepSpeed behind a few calls: run, backward, step, state and restore, release or close."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.trial_config import TrainConfig, ZeroConfig
from orchestrator.worker.model import Policy, Predictions, has_adapters, without_wrapper, wrap

_LINEAR = nn.functional.linear
_LARGEST_BUCKET = 500_000_000  # elements, DeepSpeed's default
_NO_DECAY = ("bias", "norm.weight", "layernorm.weight", "ln_f.weight", "ln_1.weight", "ln_2.weight")


@cache
def import_deepspeed() -> Any:
    """DeepSpeed, told what it would otherwise guess, or compile for half a minute; the first import of a process."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _hidden("mlflow"):  # DeepSpeed's autotuner, which nothing uses, takes a second to import it
        import deepspeed  # noqa: PLC0415  (reads DS_ACCELERATOR when imported)

    # Only inference uses this operator, and it is built with a C++ compiler that a user may not have.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon()
    return deepspeed


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let imports find no module of this name, unless it is there already."""
    modules: dict[str, Any] = sys.modules
    absent = name not in modules
    if absent:
        modules[name] = None
    try:
        yield
    finally:
        if absent:
            del modules[name]


def _import_muon() -> None:
    """Import the module of an optimizer that every engine asks for, but not the compiler that its decorators ask for.

    Importing that compiler takes three seconds, and neither is used.
    """
    from deepspeed.runtime import compiler  # noqa: PLC0415

    compile_ = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compile_


def start_process_group(
    rank: int, world_size: int, init_method: str, device: str | None = None, timeout: timedelta | None = None
) -> None:
    """Join torch's process group where no launcher has done so: NCCL between GPUs, gloo between CPUs.

    `device`: "cuda" or "cpu"; default: as torch finds them. `timeout`: of a wait for another rank; default: torch's.
    """
    dist.init_process_group(
        _backend(device), init_method=init_method, rank=rank, world_size=world_size, timeout=timeout
    )


def join_process_group() -> int:
    """The group that torchrun made, else a group of this process alone, on CPU or GPU; returns the rank."""
    if "WORLD_SIZE" in os.environ:
        rank = int(os.environ["RANK"])
        start_process_group(rank, int(os.environ["WORLD_SIZE"]), "env://")
        return rank
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but torch's types leave it out
    dist.init_process_group(_backend(), store=store, rank=0, world_size=1)
    return 0


def leave_process_group() -> None:
    """Leave torch's process group, after which another can be joined: DeepSpeed remembers groups by itself."""
    comm = sys.modules.get("deepspeed.comm")
    if comm is not None and comm.is_initialized():
        comm.destroy_process_group()
    else:
        dist.destroy_process_group()


def _backend(device: str | None = None) -> str:
    return "nccl" if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda" else "gloo"


class DeepSpeedEngine:
    """A model under training on all ranks of the process group, ZeRO stage 0 to 3; of one with adapters only these.

    Gradients accumulate over any number of `backward` calls, equal on all ranks, until `step`.
    """

    def __init__(self, model: Any, train: TrainConfig, zero: ZeroConfig) -> None:
        deepspeed = import_deepspeed()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device: torch.device = next(model.parameters()).device
        self.stage = zero.stage
        if train.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._policy: Policy | None = Policy(model)
        bfloat16 = next(model.parameters()).dtype is torch.bfloat16
        self._engine, *_ = deepspeed.initialize(
            model=self._policy,
            model_parameters=_parameter_groups(self._policy, train.weight_decay),
            config=deepspeed_config(
                train, zero, _num_trained(model), bfloat16=bfloat16, cuda=self.device.type == "cuda"
            ),
            dist_init_required=False,
        )
        # Under ZeRO 0 and bfloat16 the optimizer's state is made by a step without gradients, which Adam counts.
        for state in self._engine.optimizer.state.values():
            state["step"].zero_()
        self._engine.train()

    def run(self, fn: Callable[[Predictions], Tensor]) -> Tensor:
        """What `fn` makes of the model's outputs, without gradients and in evaluation mode; all ranks together."""
        self._engine.eval()
        with torch.no_grad():
            value: Tensor = self._engine(fn)
        self._engine.train()
        return value

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """The model as it stands, to be asked on each rank by itself; all ranks together.

        Nothing of what training goes on with is changed, random generators included. Under ZeRO 3 it is a copy, which
        takes room for whole weights on every rank.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        linear = nn.functional.linear
        with torch.random.fork_rng(devices), torch.no_grad():
            if self.stage == 3:
                yielded = model_with_weights(self._model, self._whole_weights()).to(self.device)
                nn.functional.linear = _LINEAR  # as in the evaluation at the end
            else:
                yielded = self._model
            try:
                yield yielded.eval()
            finally:
                nn.functional.linear = linear
        self._engine.train()

    def backward(self, fn: Callable[[Predictions], Tensor], *, scale: float) -> None:
        """Add scale * d fn to the gradients; the ranks' gradients are averaged at the step."""
        self._engine.backward(self._engine(fn) * scale, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float | None:
        """One AdamW update; the gradient norm over all ranks before clipping, None where ZeRO 0 does not compute it."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def head(self) -> tuple[Tensor, Tensor | None]:
        """A copy of the output head on the host: weight (V, H) and bias (V,) or None; all ranks together."""
        head = without_wrapper(self._model).get_output_embeddings()
        with _gathered([p for p in (head.weight, head.bias) if p is not None], self.stage):
            return _on_host(head.weight), None if head.bias is None else _on_host(head.bias)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks."""
        dist.all_reduce(values)
        return values

    def max_over_ranks(self, value: int) -> int:
        """The largest value of any rank."""
        tensor = torch.tensor([value], device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor.item())

    def state(self) -> dict[str, Tensor]:
        """This rank's part of the float32 weights and of Adam's moments, to go on from; not copied."""
        tensors = {}
        for number, weights in enumerate(self._float32_parts()):
            tensors[f"{number}/weights"] = weights.detach()
            tensors |= {f"{number}/{name}": value for name, value in self._adam.state[weights].items()}
        return tensors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the `state` of a like engine, same rank of as many; all ranks together."""
        parts = self._float32_parts()
        for number, weights in enumerate(parts):
            own = {name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{number}/")}
            weights.data.copy_(own.pop("weights"))
            self._adam.state[weights] = {name: value.to(weights.device, copy=True) for name, value in own.items()}
        optimizer = self._engine.optimizer
        if self.stage == 3:
            optimizer._partition_all_parameters()  # what is whole would be taken for the newest
            for number in range(len(parts)):
                optimizer._reassign_or_swap_out_partitioned_parameters(number)
            if whole := optimizer.persistent_parameters:  # small ones, which every rank has
                whole[0].all_gather(whole)
        elif hasattr(optimizer, "update_lp_params"):
            optimizer.update_lp_params()
        elif optimizer is not self._adam:  # ZeRO 0 and bfloat16
            for low, high in zip(chain(*optimizer.fp16_groups), chain(*optimizer.fp32_groups), strict=True):
                low.data.copy_(high.data)

    def release(self) -> Any:
        """End training: free gradients and optimizer state, return the model with whole weights on every rank.

        Adapters stay as they are, beside the weights.
        """
        model = self._model
        state = self._whole_weights() if self.stage == 3 else None
        self.close()
        if state is not None:
            model = model_with_weights(model, state)
        return model.to(self.device).eval()

    def close(self) -> None:
        """End without taking the weights: free gradients and optimizer state. Under ZeRO 3 the model is of no use."""
        self._engine.destroy()
        if self.stage == 3:
            nn.functional.linear = _LINEAR  # DeepSpeed's own rounds otherwise, and stays in place for every model
            _forget_module(self._policy)
            optimizer = self._engine.optimizer  # outlives the engine with the model, whose hooks refer to it
            optimizer.optimizer.state.clear()
            optimizer.optimizer.param_groups.clear()
            optimizer.fp32_partitioned_groups_flat.clear()
        self._engine = self._policy = None
        gc.collect()  # the engine and its optimizer refer to each other

    @property
    def _adam(self) -> Any:
        """The optimizer inside DeepSpeed's, which ZeRO 0 and float32 do without."""
        return getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)

    def _float32_parts(self) -> list[Tensor]:
        """This rank's part of the weights under training, in the type that Adam updates."""
        if self.stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [weights for group in self._adam.param_groups for weights in group["params"]]

    @property
    def _model(self) -> Any:
        assert self._policy is not None
        return self._policy.model

    def _whole_weights(self) -> dict[str, Tensor]:
        """On the host, gathered one by one: beside Adam's state a GPU may have no room for all of them."""
        state = {}
        for name, parameter in self._model.named_parameters():
            with _gathered([parameter], self.stage):
                state[name] = _on_host(parameter)
        return state


def _forget_module(module: Any) -> None:
    """Drop what DeepSpeed's globals keep of a ZeRO 3 engine: its module on a stack, its coordinator in a cache.

    Weights and optimizer state hang on these.
    """
    from deepspeed.runtime.zero import parameter_offload  # noqa: PLC0415
    from deepspeed.runtime.zero.partitioned_param_coordinator import (  # noqa: PLC0415
        PartitionedParameterCoordinator as Coordinator,
    )

    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [other for other in stack if other is not module]
    for cell in Coordinator._PartitionedParameterCoordinator__params_to_release.__closure__:
        cell.cell_contents.cache_clear()


def model_with_weights(like: Any, state: dict[str, Tensor]) -> Any:
    """A model like `like` with these weights, on the host; made in their type, but rotary frequencies keep theirs."""
    old = without_wrapper(like)
    default = torch.get_default_dtype()
    torch.set_default_dtype(next(iter(state.values())).dtype)
    try:
        plain = type(old)(old.config)
    finally:
        torch.set_default_dtype(default)
    model = wrap(plain, like.peft_config[like.active_adapter]) if has_adapters(like) else plain
    missing, unexpected = model.load_state_dict(state, strict=False)
    plain.tie_weights()
    absent = {name.removeprefix("base_model.model.") for name in missing}
    assert not unexpected and absent <= set(plain.all_tied_weights_keys), (missing, unexpected)
    plain.generation_config = old.generation_config
    return model


def deepspeed_config(
    train: TrainConfig, zero: ZeroConfig, num_trained: int, *, bfloat16: bool, cuda: bool
) -> dict[str, Any]:
    """DeepSpeed's own configuration. Clipping is written even when off, because DeepSpeed clips at 1.0 by default."""
    sharding: dict[str, Any] = {"stage": zero.stage, "overlap_comm": False}
    # Its buffer for gradients is this large however few there are: half a billion by default.
    sharding["reduce_bucket_size"] = min(num_trained, _LARGEST_BUCKET)
    # ZeRO 1 and 2 all-reduce either way; "scattering" would first copy all gradients together, and back again.
    sharding["reduce_scatter"] = zero.stage == 3
    if zero.offload_optimizer:
        sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    if zero.offload_parameters:
        sharding["offload_param"] = {"device": "cpu", "pin_memory": cuda}
    adam = {
        "lr": 0.0,
        "betas": [train.adam_beta1, train.adam_beta2],
        "eps": train.adam_epsilon,
        "weight_decay": train.weight_decay,
        "torch_adam": True,
        "fused": True,  # one pass over memory instead of a dozen
    }
    return {
        "train_micro_batch_size_per_gpu": 1,  # rows are counted by the plan; DeepSpeed only reports this number
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": train.max_grad_norm or 0.0,
        "zero_optimization": sharding,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {"type": "AdamW", "params": adam},
        "bf16": {"enabled": bfloat16},
        "steps_per_print": 10**9,
    }


def _num_trained(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _parameter_groups(policy: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Of what is trained, weights decay; biases and norms do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            (plain if name.endswith(_NO_DECAY) or parameter.dim() < 2 else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]  # of adapters there are no biases


def _on_host(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", copy=True)


def _gathered(parameters: list[Any], stage: int) -> Any:
    return import_deepspeed().zero.GatheredParameters(parameters, enabled=stage == 3)
