"""The layer under what torch does to modules: vmap, autocast, processes."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from crfrnn import CRFRNN, Bilateral, Gaussian, Lattice, Step, ops
from crfrnn.core.inference import Options
from crfrnn.ops import filters, recurrence
from tests.cases import ENGINES

CLASSES = 4
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def layer(**options: Any) -> CRFRNN:
    return CRFRNN(CLASSES, iterations=2, eval_iterations=2, **options)


def inputs(batch: int = 2, size: tuple[int, ...] = (9, 11)) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, CLASSES, *size, requires_grad=True)
    return logits, torch.rand(batch, 3, *size) * 255


def loss_and_gradients(model: Callable[..., Tensor], *args: Any) -> tuple[Tensor, ...]:
    wanted = [value for value in args if value.requires_grad]
    wanted += list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    z = model(*args)
    gradients = torch.autograd.grad(z.square().mean(), wanted)
    return z.detach(), *gradients


# Operators


def operator_calls(engine: str) -> list[Any]:
    """Every registered operator with arguments that want gradients wherever it has them."""
    features = torch.rand(2, 20, 3) * 3
    values = torch.randn(2, 20, 2, requires_grad=True)
    lattice = ops.build(features, engine)
    weighted = lattice._replace(weight=lattice.weight.clone().requires_grad_())
    bands = [torch.rand(4, 3, requires_grad=True), torch.rand(5, 5, requires_grad=True)]
    grid = torch.randn(2, 4, 5, 2, requires_grad=True)
    ones = torch.ones(2, 20)
    terms = [
        ops.Term("lattice", tuple(lattice), ones, ones, ones),
        ops.Term("grid", tuple(band.detach() for band in bands), None, ones, ones),
    ]
    logits = torch.randn(2, CLASSES, 20, requires_grad=True)
    weights = torch.rand(2, CLASSES, requires_grad=True)
    plain = logits.detach()
    model = ops.Model(weights, (4, 5), terms, engine)
    detached = model._replace(weights=weights.detach())
    options = Options(3, save=True).flatten()
    width = recurrence.implementation(engine).saved_width(CLASSES)
    saved = torch.rand(2, 3, 20, width)
    rates = torch.tensor([0.7, 0.6], requires_grad=True)
    stepped = model._replace(update=ops.Update("l2", rates, 0.5))
    detached_step = ops.Update("l2", rates.detach(), 0.5)
    all_width = recurrence.implementation(engine).saved_width(CLASSES, True)
    targets = torch.zeros(2, 4, 20, all_width)
    targets[..., :CLASSES] = torch.rand(2, 4, 20, CLASSES).softmax(3)
    return [
        (filters._build, (features, engine)),
        (filters._filter, (values, *lattice, False, engine)),
        (filters._filter, (values, *weighted, True, engine)),
        (filters._separable, (grid, bands, engine)),
        (filters._exact, (values, features.clone().requires_grad_(), 1e-8, engine)),
        (recurrence._mean_field, (logits, *model.flatten(), options)),
        (
            recurrence._mean_field_backward,
            (plain, plain, saved, *detached.flatten()),
        ),
        (recurrence._mean_field, (logits, *stepped.flatten(), options)),
        (
            recurrence._mean_field_backward,
            (plain, plain, targets, *detached._replace(update=detached_step).flatten()),
        ),
    ]


@pytest.mark.traced
@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("engine", ENGINES)
def test_operators_are_registered_as_torch_wants_them(engine: str, index: int) -> None:
    operator, args = operator_calls(engine)[index]
    torch.library.opcheck(operator, args)


# torch.func


@pytest.mark.unchecked
@pytest.mark.parametrize("options", [{}, {"filter": "exact"}, {"step": Step("l2", mix=0.5)}])
def test_maps_over_logits_with_prepared_filters(options: dict[str, Any]) -> None:
    made = layer(**options)
    prepared = made.prepare(inputs()[1])
    logits = torch.randn(3, 2, CLASSES, 9, 11)

    def run(one: Tensor) -> Tensor:
        return made(one, prepared)

    def loss(one: Tensor) -> Tensor:
        return run(one).square().mean()

    each = [loss_and_gradients(run, one.requires_grad_()) for one in logits.clone()]
    mapped = torch.vmap(run)(logits)
    torch.testing.assert_close(mapped, torch.stack([z for z, _ in each]), **CLOSE)
    gradients = torch.stack([gradient for _, gradient in each])
    per_item = torch.vmap(torch.func.grad(loss))(logits)
    torch.testing.assert_close(per_item, gradients, **CLOSE)
    of_sum = torch.func.grad(lambda x: torch.vmap(loss)(x).sum())(logits)
    torch.testing.assert_close(of_sum, gradients, **CLOSE)


@pytest.mark.unchecked
def test_maps_over_parameters() -> None:
    made = layer()
    logits, image = inputs()
    prepared = made.prepare(image)
    several = torch.rand(3, *made.kernel_weights.shape)

    def run(weights: Tensor) -> Tensor:
        return torch.func.functional_call(made, {"kernel_weights": weights}, (logits, prepared))

    expected = torch.stack([run(weights) for weights in several])
    torch.testing.assert_close(torch.vmap(run)(several), expected, **CLOSE)


@pytest.mark.unchecked
def test_a_lattice_is_not_built_under_vmap_and_says_so() -> None:
    made = layer()
    with pytest.raises(NotImplementedError, match=r"cannot be built under vmap.*prepare"):
        torch.vmap(lambda z, i: made(z[None], i[None])[0])(*inputs())


# Derivatives that do not exist must not come out as zero.


def test_second_derivatives_are_refused() -> None:
    made = layer()
    logits, image = inputs()
    for loss in (lambda z: z.square().sum(), lambda z: z.sum()):
        (gradient,) = torch.autograd.grad(loss(made(logits, image)), logits, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"no second derivative.*mean_field"):
            gradient.square().sum().backward()


@pytest.mark.unchecked
def test_forward_mode_is_refused() -> None:
    made = layer()
    logits, image = inputs()
    logits = logits.detach()
    prepared = made.prepare(image)
    values = torch.rand(20, 2)
    lattice = Lattice(torch.rand(20, 3))
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda z: made(z, prepared), (logits,), (logits,))
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lattice.filter, (values,), (values,))


def test_a_recurrence_that_saved_nothing_has_no_gradient() -> None:
    made = layer()
    logits, image = inputs()
    filters_of = made.prepare(image).filters
    terms = [f.term for f in filters_of]
    model = ops.Model(torch.ones(2, CLASSES), (9, 11), terms, "reference")
    z, _, _ = recurrence._mean_field(logits.flatten(2), *model.flatten(), Options(2).flatten())
    with pytest.raises(RuntimeError, match="saved no steps"):
        z.sum().backward()


# Training loops


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_in_float32_and_returns_its_own_type(dtype: torch.dtype) -> None:
    made = layer()
    logits, image = inputs()
    half = logits.detach().to(dtype).requires_grad_()
    z, gradient, *_ = loss_and_gradients(made, half, image)
    assert z.dtype == gradient.dtype == dtype
    expected = made(half.detach().float(), image)
    torch.testing.assert_close(z, expected.detach().to(dtype))


def test_autocast_does_not_reach_inside() -> None:
    made = layer(weights="matrix")
    logits, image = inputs()
    expected = loss_and_gradients(made, logits, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = made(logits, image)
        network = torch.nn.Conv2d(3, CLASSES, 1)
        assert made(network(image), image).dtype == torch.bfloat16
    inside = loss_and_gradients(lambda *_: z, logits, *made.parameters())
    torch.testing.assert_close(inside, expected, rtol=0, atol=0)


def test_checkpointing() -> None:
    made = layer()
    args = inputs()

    def again(logits: Tensor, image: Tensor) -> Tensor:
        z = torch.utils.checkpoint.checkpoint(made, logits, image, use_reentrant=False)
        assert isinstance(z, Tensor)
        return z

    expected = loss_and_gradients(made, *args)[:2]
    torch.testing.assert_close(loss_and_gradients(again, *args), expected, rtol=0, atol=0)


class Pictures(torch.utils.data.Dataset[Tensor]):
    """A data set whose workers run the layer."""

    def __init__(self, made: CRFRNN) -> None:
        self.made = made
        self.logits, self.images = (value.detach() for value in inputs(6, (40, 41)))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(2)  # workers start with one
        with torch.no_grad():
            return self.made(self.logits[index, None], self.images[index, None])[0]


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_of_a_data_loader_after_a_fork() -> None:
    data = Pictures(layer().eval())
    expected = torch.stack([data[i] for i in range(6)])  # the parent has used its threads
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    torch.testing.assert_close(torch.cat(list(loader)), expected, **CLOSE)


DDP = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from crfrnn import CRFRNN, Segmenter

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{path}/rendezvous", rank=rank, world_size=2)
torch.manual_seed(0)
model = Segmenter(torch.nn.Conv2d(3, 4, 1), CRFRNN(4, iterations=2, learn_bandwidths=True))
images, labels = torch.rand(2, 3, 9, 11), torch.randint(4, (2, 9, 11))

def gradients(model, images, labels):
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    return [parameter.grad for parameter in model.parameters()]

ours = gradients(DistributedDataParallel(model), images[rank, None], labels[rank, None])
together = [gradient.clone() for gradient in ours]
model.zero_grad()
torch.testing.assert_close(together, gradients(model, images, labels), rtol=1e-4, atol=1e-6)
torch.distributed.destroy_process_group()
"""

FSDP = """
import sys
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from crfrnn import CRFRNN

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{path}/rendezvous", rank=rank, world_size=2)
torch.manual_seed(0)
logits, image = torch.randn(2, 3, 9, 11), torch.rand(2, 3, 9, 11) * 255
start = torch.rand(3, 3)
made, alone = CRFRNN(3, compatibility=start), CRFRNN(3, compatibility=start)
fully_shard(made, mesh=init_device_mesh("cpu", (2,)))
made(logits, image).square().mean().backward()
alone(logits, image).square().mean().backward()
torch.testing.assert_close(made.compatibility.grad.full_tensor(), alone.compatibility.grad)
with torch.no_grad():
    for parameter in made.parameters():
        parameter += 1
made.reset_parameters()
for name, value in alone.named_parameters():
    torch.testing.assert_close(made.get_parameter(name).full_tensor(), value)
torch.distributed.destroy_process_group()
"""

needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)


@pytest.mark.slow
@needs_distributed
def test_two_processes_average_their_gradients(tmp_path: Any) -> None:
    run_processes(DDP, tmp_path)


def run_processes(program: str, tmp_path: Any) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


@pytest.mark.slow
@needs_distributed
def test_two_processes_share_the_parameters(tmp_path: Any) -> None:
    run_processes(FSDP, tmp_path)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [(9, 11), (200, 210)], ids=str)
def test_a_forward_leaves_storages_resizable(size: tuple[int, ...], engine: Any) -> None:
    made = layer(engine=engine, learn_bandwidths=True)
    logits, image = inputs(1, size)
    tensors = [logits, image, *made.parameters()]
    assert all(tensor.untyped_storage().resizable() for tensor in tensors)
    made(logits, image)
    with torch.no_grad():
        made.eval()(logits, image)
    assert all(tensor.untyped_storage().resizable() for tensor in tensors)


class Shifted(torch.nn.Module):
    """A parametrization."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored + 1

    def right_inverse(self, value: Tensor) -> Tensor:
        return value - 1


def parametrized() -> CRFRNN:
    made = layer(learn_bandwidths=True)
    torch.nn.utils.parametrizations.weight_norm(made, "kernel_weights")
    parametrize.register_parametrization(made, "compatibility", Shifted())
    assert made.log_bandwidths is not None
    parametrize.register_parametrization(made.log_bandwidths[0], "position", Shifted())
    return made


def test_a_parametrized_layer_is_reset() -> None:
    made = parametrized()
    before = [made.kernel_weights, made.penalty(), made.current_kernels()[0].position]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3
    assert not torch.equal(made.penalty(), before[1])
    made.reset_parameters()
    after = [made.kernel_weights, made.penalty(), made.current_kernels()[0].position]
    torch.testing.assert_close(after, before)


def test_a_parametrized_layer_is_stored_as_what_it_computes(tmp_path: Any) -> None:
    made = parametrized().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3
    made.save_pretrained(tmp_path)
    again = CRFRNN.from_pretrained(tmp_path)
    assert isinstance(again.compatibility, torch.nn.Parameter)
    args = inputs()
    torch.testing.assert_close(again(*args), made(*args), rtol=0, atol=0)


def test_a_parametrized_layer_has_the_groups_of_a_plain_one() -> None:
    rates = [
        {group["name"]: group["lr"] for group in made.parameter_groups(1.0)}
        for made in (parametrized(), layer(learn_bandwidths=True))
    ]
    assert rates[0] == rates[1]
    groups = {group["name"]: len(group["params"]) for group in parametrized().parameter_groups(1.0)}
    assert groups == {"crf.kernel_weights": 2, "crf.compatibility": 1, "crf.others": 3}


@pytest.mark.unchecked
def test_a_tolerance_under_vmap_is_refused() -> None:
    made = layer(tol=0.01).eval()
    prepared = made.prepare(inputs()[1])
    several = torch.randn(3, 2, CLASSES, 9, 11)
    with pytest.raises(NotImplementedError, match=r"torch.vmap hides. Leave out tol"):
        torch.vmap(lambda one: made(one, prepared))(several)


def test_moves_copies_and_pickles(tmp_path: Any) -> None:
    made = CRFRNN(CLASSES, [Bilateral(), Gaussian()], learn_bandwidths=True)
    torch.save(made, tmp_path / "layer.pt")
    args = inputs()
    again = torch.load(tmp_path / "layer.pt", weights_only=False)
    torch.testing.assert_close(again(*args), made(*args), rtol=0, atol=0)
    double = again.double()
    assert double(args[0].double(), args[1]).dtype == torch.float64
    assert made.to("meta").kernel_weights.is_meta


@pytest.mark.traced
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_formats_that_cannot_hold_the_layer_name_those_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = layer().eval()
    with pytest.raises(NotImplementedError, match=r"torch\.export\.export"):
        torch.jit.trace(made, inputs())
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(NotImplementedError, match="export the network alone"):
        made(*inputs())
