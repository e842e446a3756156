"""CRFRNN: the fully connected CRF as a layer, trainable on top of any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn._guards import warn
from crfrnn.core import names
from crfrnn.core.inference import Options
from crfrnn.crf.frank_wolfe import Inference, Step, checked_step
from crfrnn.crf.inference import Pairwise, infer, potts
from crfrnn.crf.kernel import Kernel
from crfrnn.crf.kernels import checked_kernels
from crfrnn.crf.recipe import Recipe
from crfrnn.presets import PRESETS, find_preset

from . import parameters, pretrained
from .independent import check_options, infer_independent
from .inputs import check_clamp, check_logits, check_parameters, give_back
from .prepared import Guide, Prepared, prepare_alone, take
from .stored import StoredLayer

#: The published starting point: Zheng et al. (2015), section 6.
PAPER_KERNELS = PRESETS["crfasrnn"].kernels


class CRFRNN(StoredLayer, nn.Module):
    """Mean-field inference in a fully connected CRF as a recurrent layer: logits in, logits out.

    Zheng et al. (ICCV 2015, arXiv 1502.03240): the updates of Krähenbühl & Koltun (NIPS 2011,
    arXiv 1210.5644), unrolled `iterations` times and trained end to end with the network below.

    Args:
        num_classes: C, the channels of the logits, at least 2. For a network with one logit, of
            the foreground, give 1 and `independent=True`.
        kernels: any mix of `Bilateral`, `Gaussian`, `FeatureGaussian` and your own. Default the
            paper's: bilateral 160 / 3 with weight 5, spatial 3 with weight 3.
        iterations: mean-field steps while training. Default 5 (the paper).
        eval_iterations: steps in evaluation mode. Default 10 (the paper).
        weights: learn one kernel weight per kernel ("scalar"), per kernel and class ("class", the
            paper) or a matrix per kernel ("matrix", the released code).
        compatibility: "potts", or a (C, C) penalty for label c beside label d to start from.
        learn_compatibility: learn the compatibility (default, the paper). If not, Potts runs
            faster.
        normalization: "symmetric" (default, converges best), "after" (the paper), "before" or
            "none".
        filter: "lattice", or "exact": the Gaussian sum itself, quadratic in the pixels.
        learn_bandwidths: learn the bandwidths too; slower, see docs/guide/layer.md.
        feature_gradients: pass gradients on to the image and `features` where they ask for one;
            slower. If not, such an input is refused.
        step: the update of one iteration; see `Step`. Default mean field.
        independent: a model for each class, which may overlap; see docs/guide/layer.md.
        tol: in evaluation mode, an image stops when the mean change of its marginals falls below
            this (0.001 is a good value). A guard then halves the step of an image whose change
            grows twice in a row, if the learned model is one that can oscillate. Default never.
        engine: "reference", "cpu" or "triton"; by default the fastest that suits.

    Attributes:
        kernel_weights: parameter (K,), (K, C) or (K, C, C).
        compatibility: parameter (C, C), or buffer if not learned; absent for fixed Potts.
        log_bandwidths: with `learn_bandwidths`, per kernel the logarithms of its bandwidths by
            name, such as `position`, each of the shape that the kernel was given.
            `current_kernels` reads them.
        step_strength, step_size: with a learned step, log λ and the logit of α; the latter is None
            if λ alone is learned.

    Example:
        >>> import torch
        >>> from crfrnn import CRFRNN
        >>> layer = CRFRNN(num_classes=21)
        >>> logits, image = torch.randn(2, 21, 8, 9), torch.rand(2, 3, 8, 9) * 255
        >>> layer(logits, image).shape
        torch.Size([2, 21, 8, 9])
    """

    def __init__(
        self,
        num_classes: int,
        kernels: Sequence[Kernel] | None = None,
        *,
        iterations: int = 5,
        eval_iterations: int = 10,
        weights: names.Weights = "class",
        compatibility: Any = "potts",
        learn_compatibility: bool = True,
        normalization: names.Normalization = "symmetric",
        filter: names.Filter = "lattice",
        learn_bandwidths: bool = False,
        feature_gradients: bool = False,
        step: Step | None = None,
        independent: bool = False,
        tol: float | None = None,
        engine: names.EngineName | None = None,
    ) -> None:
        super().__init__()
        if independent:
            check_options(weights, compatibility, step, tol)
            learn_compatibility = False
        self.independent = independent
        self.num_classes = _checks.count("num_classes", num_classes, least=1)
        if self.num_classes == 1 and not independent:
            warn(
                "a CRF with one class returns the logits as they are; give two classes, or "
                "independent=True for a network with one logit, of the foreground"
            )
        _checks.fits_memory("num_classes", self.num_classes, self.num_classes, self.num_classes)
        self.iterations = _checks.count("iterations", iterations)
        self.eval_iterations = _checks.count("eval_iterations", eval_iterations)
        _checks.one_of("weights", weights, names.WEIGHTS)
        _checks.one_of("normalization", normalization, names.NORMALIZATIONS)
        _checks.one_of("filter", filter, names.FILTERS)
        chosen = checked_kernels(PAPER_KERNELS if kernels is None else kernels)
        self.recipe = Recipe(chosen, normalization, filter, engine, feature_gradients)
        self.weights = weights
        self.step = checked_step(step)
        self._is_plain = self.step == Step()
        self.tol = None if tol is None else _checks.positive("tol", tol, "a mean change")[0]
        self.kernel_weights = parameters.initial_weights(chosen, self.num_classes, weights)
        start = parameters.initial_compatibility(compatibility, self.num_classes)
        self._start: str | Tensor = "potts" if isinstance(compatibility, str) else start.clone()
        start = start.to(torch.get_default_device())
        self.compatibility: Tensor | None
        if learn_compatibility:
            self.compatibility = nn.Parameter(start)
        else:
            fixed_potts = isinstance(compatibility, str)
            self.register_buffer("compatibility", None if fixed_potts else start)
        self.log_bandwidths = parameters.log_bandwidths(chosen) if learn_bandwidths else None
        if self.step.learn:
            self.step_strength, self.step_size = parameters.learned_step(self.step)

    def reset_parameters(self) -> None:
        """Reset all parameters to their initial values, like the layers of torch.

        Kernel weights and bandwidths return to those of `kernels`, and the compatibility to the one
        given, or to Potts. A layer that was read from a file forgets a learned compatibility. So
        each fold of a cross-validation starts afresh, and a layer that was made on the device
        "meta" can be filled after `to_empty`.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN
            >>> with torch.device("meta"):
            ...     layer = CRFRNN(21)
            >>> layer.to_empty(device="cpu").reset_parameters()
            >>> layer.kernel_weights[:, 0].tolist()
            [5.0, 3.0]
        """
        parameters.reset(self, self._start)

    def forward(
        self,
        logits: Float[Tensor, "B C *S"],
        image: Shaped[Tensor, "B F *S"] | Prepared | None = None,
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        clamp: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
    ) -> Float[Tensor, "B C *S"]:
        """Refine logits.

        Args:
            logits: (B, C, *S) scores before softmax; S is (W,), (H, W) or (D, H, W).
            image: (B, F, *S) with any number of channels, 8-bit or float **on 0..255**; or what
                `prepare` made of it; None if no kernel looks at it.
            mask: bool; pixels outside take no part and keep their logits.
            clamp: bool; these pixels, such as scribbles, keep their logits but still send messages.
                It goes with mean field, not with another `step`.
            features: maps (B, F, *s) of any resolution that `FeatureGaussian` kernels refer to.

        Returns:
            Logits of the approximate marginals, of the type of `logits`. Feed them to
            `cross_entropy`; softmax gives probabilities.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN
            >>> image = torch.zeros(1, 3, 1, 6)
            >>> image[..., 3:] = 200  # an edge in the middle
            >>> logits = torch.zeros(1, 2, 1, 6)  # the network is sure of the outer pixels alone
            >>> logits[:, 0, :, :2], logits[:, 1, :, 4:] = 2, 2
            >>> CRFRNN(2)(logits, image).argmax(1)
            tensor([[[0, 0, 0, 1, 1, 1]]])
        """
        iterations = self.iterations if self.training else self.eval_iterations
        tol = None if self.training else self.tol
        options = Options(iterations, tol or 0.0)
        return self._run(logits, Guide(image, mask, features, clamp), options, False).logits

    def infer(
        self,
        logits: Float[Tensor, "B C *S"],
        image: Shaped[Tensor, "B F *S"] | Prepared | None = None,
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        clamp: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
        iterations: int | None = None,
        tol: float | None = None,
        trace: bool = False,
    ) -> Inference:
        """Refine logits, and report steps and energies.

        Args:
            logits: this and `image`, `mask`, `features` as in `forward`.
            image: see there.
            mask: see there.
            clamp: see there; not with `trace`.
            features: see there.
            iterations: most steps; default `eval_iterations`.
            tol: default the layer's.
            trace: also compute the free energy at every step; this runs in plain PyTorch.

        Returns:
            Logits, the steps that each image made, and the energies.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN
            >>> logits, image = torch.randn(2, 3, 8, 9), torch.rand(2, 3, 8, 9) * 255
            >>> done = CRFRNN(3).infer(logits, image, iterations=4, trace=True)
            >>> done.steps
            tensor([4, 4])
            >>> bool((done.energy[-1] < done.energy[0]).all())
            True
        """
        most = (
            self.eval_iterations if iterations is None else _checks.count("iterations", iterations)
        )
        tol = self.tol if tol is None else _checks.positive("tol", tol, "a mean change")[0]
        guide = Guide(image, mask, features, clamp)
        return self._run(logits, guide, Options(most, tol or 0.0), trace)

    def prepare(
        self,
        image: Shaped[Tensor, "B F *S"],
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Prepared:
        """Build lattices and normalizers once, to pass in place of the image in later calls.

        The arguments are those of `forward`; an image is needed even if no kernel looks at it, and
        `dtype` is float64 for logits in float64.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN
            >>> layer, image = CRFRNN(3).eval(), torch.rand(1, 3, 8, 9) * 255
            >>> prepared = layer.prepare(image)
            >>> logits = torch.randn(1, 3, 8, 9)
            >>> torch.equal(layer(logits, prepared), layer(logits, image))
            True
        """
        learning = self.training and self.log_bandwidths is not None
        guide = Guide(image, mask, features)
        return prepare_alone("CRFRNN", self.recipe, guide, dtype, self.log_bandwidths, learning)

    def penalty(self) -> Float[Tensor, "C C"]:
        """Return the present compatibility: the penalty for label c beside label d.

        Example:
            >>> from crfrnn import CRFRNN
            >>> CRFRNN(2).penalty().detach()  # Potts, until it is trained
            tensor([[0., 1.],
                    [1., 0.]])
        """
        if self.compatibility is None:
            return potts(self.kernel_weights.new_empty(1, self.num_classes))
        return self.compatibility

    def current_kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels with their present bandwidths; their weights are in `kernel_weights`.

        Example:
            >>> from crfrnn import CRFRNN, Gaussian
            >>> layer = CRFRNN(2, [Gaussian(position=4)], learn_bandwidths=True)
            >>> _ = layer.log_bandwidths[0]["position"].data.sub_(0.5)  # as training might
            >>> round(layer.current_kernels()[0].position, 2)
            2.43
        """
        return parameters.current_kernels(self.recipe.kernels, self.log_bandwidths)

    def parameter_groups(
        self, lr: float, *, weights: float = 10.0, compatibility: float = 1.0, others: float = 1.0
    ) -> list[dict[str, Any]]:
        """Make groups for an optimizer, with learning rates relative to the network's `lr`.

        The default factors are those of `crfrnn train`, for rates such as 1e-3 with SGD or Adam.
        Those of the released solver are `crfrnn.layer.parameters.SOLVER_FACTORS`; they go with its
        rate for the network, 2.5e-8 on a mean loss. `others` is for bandwidths and a learned step.

        Example:
            >>> from crfrnn import CRFRNN
            >>> groups = CRFRNN(21).parameter_groups(1e-3)
            >>> {group["name"]: group["lr"] for group in groups}
            {'crf.kernel_weights': 0.01, 'crf.compatibility': 0.001}
        """
        factors = {"kernel_weights": weights, "compatibility": compatibility, "others": others}
        return parameters.grouped(self.named_parameters(), lr, factors)

    @classmethod
    def from_preset(cls, preset: str, num_classes: int) -> CRFRNN:
        """Start from a parameter set of `crfrnn.presets`, as "crfasrnn" (the paper), or a file.

        Evaluation makes the steps that the preset states. Training makes as many, at most 5.

        Example:
            >>> from crfrnn import CRFRNN
            >>> CRFRNN.from_preset("deeplab", num_classes=21).current_kernels()[0]
            Bilateral(position=67, color=3, weight=4)
        """
        chosen = find_preset(preset)
        return cls(
            num_classes,
            chosen.kernels,
            iterations=min(5, chosen.iterations),
            eval_iterations=chosen.iterations,
            normalization=chosen.normalization,
        )

    @classmethod
    def from_crfasrnn(cls, weights: Mapping[str, Any] | str | Path) -> CRFRNN:
        """Read the published weights of `sadeepj/crfasrnn_pytorch`: a state dict, or its file.

        The layer computes what that one does: full kernel matrices, normalization "after", both
        kernels on lattices. Its compatibility is a reward, so ours is -1 times it.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN
            >>> published = {  # in place of crfasrnn_weights.pth
            ...     "bilateral_ker_weights": 5 * torch.eye(21),
            ...     "spatial_ker_weights": 3 * torch.eye(21),
            ...     "compatibility_matrix": torch.eye(21),
            ... }
            >>> layer = CRFRNN.from_crfasrnn(published)
            >>> layer.weights, layer.num_classes
            ('matrix', 21)
        """
        arguments, state = pretrained.published(weights)
        layer = cls(**arguments)
        layer.load_state_dict(state)
        return layer

    def extra_repr(self) -> str:
        """Describe the layer in one line.

        Example:
            >>> from crfrnn import CRFRNN, Gaussian
            >>> CRFRNN(2, [Gaussian()])
            CRFRNN(num_classes=2, kernels=[Gaussian(position=3.0, ...)], iterations=5, ...)
        """
        kernels = ", ".join(map(str, self.current_kernels()))
        return (
            f"num_classes={self.num_classes}, kernels=[{kernels}], iterations={self.iterations}, "
            f"eval_iterations={self.eval_iterations}, weights={self.weights!r}, "
            f"normalization={self.recipe.normalization!r}, filter={self.recipe.filter!r}"
        )

    def _run(self, logits: Tensor, guide: Guide, options: Options, trace: bool) -> Inference:
        given, logits = logits, check_logits("CRFRNN", logits, self.num_classes, guide.image)
        check_parameters("CRFRNN", [*self.named_parameters(), *self.named_buffers()], logits)
        _checks.finite("CRFRNN: logits", logits)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        with torch.autocast(logits.device.type, enabled=False):
            unary = logits.to(dtype)
            prepared = take("CRFRNN", self.recipe, unary, guide, self.log_bandwidths)
            compatibility = None if self.compatibility is None else self.compatibility.to(dtype)
            weights = self.kernel_weights.to(dtype)
            model = Pairwise(prepared.filters, weights, compatibility, self.recipe.engine)
            held = check_clamp("CRFRNN", guide.clamp, unary)
            if self.independent:
                done = infer_independent(unary, prepared, weights, options, trace, held)
            else:
                rates = parameters.learned_rates(self, dtype)
                # Under torch.compile(dynamic=True) a step's numbers have no values to compare.
                how = None if self._is_plain else self.step
                inside = None if prepared.mask is None else prepared.mask.view(prepared.shape)
                done = infer(
                    unary,
                    model,
                    options,
                    step=how,
                    rates=rates,
                    trace=trace,
                    held=held,
                    inside=inside,
                )
        return Inference(give_back("CRFRNN", done.logits, given, self), done.steps, done.energy)
