"""Could the labels have been anything? Contrasts compared with those of shuffled labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from scipy.stats import false_discovery_control
from torch import Tensor

from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.errors import InputError
from cna_lens.evidence.curves import NullCurves, thinned
from cna_lens.evidence.permutations import count_shuffled, label_permutations, true_correlations
from cna_lens.evidence.resampling import ActivationSets, FromResamples, check_counts, over_resamples
from cna_lens.evidence.selection import Selection
from cna_lens.results.circuit import Circuit
from cna_lens.results.rendering import Cell, Table, neuron_table
from cna_lens.results.scores import NeuronScores
from cna_lens.results.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

Control = Literal["false_discovery", "familywise"]


@dataclass(frozen=True, repr=False)
class NullDistribution(FromResamples):
    """How every neuron's contrast compares with those of shuffled labels.

    Neurons excluded by the selection are not tested; their p-values are NaN.

    Attributes:
        scores: the contrast of the true labels.
        circuit: the circuit of the selection's fixed size.
        selection: how neurons are chosen; its sign is the side that is tested.
        statistic: the t statistic of each neuron, 0 where its activation never changes.
        p_value: each neuron's p-value against its own shuffled statistics only.
        pooled_p_value: each neuron's p-value against the shuffled statistics of all tested neurons.
        q_value: the smallest false discovery rate at which a neuron is found.
        familywise_p_value: each neuron's p-value against each shuffling's largest statistic over
            all tested neurons.
        as_strong: for each shuffling, how many neurons have a contrast at least as strong as the
            weakest of `circuit`.
        n_positive: prompts that show the behaviour.
        n_negative: prompts that do not.
        n_permutations: shufflings.
        exact: whether these are all possible labels, the true ones included.
        paired: whether labels were swapped within pairs.
        seed: of the shufflings.
    """

    scores: NeuronScores
    circuit: Circuit
    selection: Selection
    statistic: Float64[Tensor, " neuron"]
    p_value: Float64[Tensor, " neuron"]
    pooled_p_value: Float64[Tensor, " neuron"]
    q_value: Float64[Tensor, " neuron"]
    familywise_p_value: Float64[Tensor, " neuron"]
    as_strong: Int64[Tensor, " permutation"]
    n_positive: int
    n_negative: int
    n_permutations: int
    exact: bool
    paired: bool
    seed: int

    def found(
        self, rate: float = 0.05, control: Control = "false_discovery"
    ) -> Bool[Tensor, " neuron"]:
        """A mask of the neurons found at this error rate.

        Args:
            rate: the largest accepted expected share of false discoveries, or probability of at
                least one, as `control` says.
            control: "false_discovery" for the share, "familywise" for the probability.

        Raises:
            InputError: a rate outside (0, 1), or an unknown control.
        """
        if not 0 < rate < 1:
            raise InputError(f"rate is {rate}, expected between 0 and 1")
        if control not in get_args(Control):
            raise InputError(f"control is {control!r}, expected one of {get_args(Control)}")
        return (self.q_value if control == "false_discovery" else self.familywise_p_value) <= rate

    def size(self, rate: float = 0.05, control: Control = "false_discovery") -> int:
        """The number of neurons that differ at an error rate; compare `len(null.circuit)`."""
        return int(self.found(rate, control).sum())

    def found_in_circuit(self, rate: float = 0.05, control: Control = "false_discovery") -> int:
        """The number of neurons of the fixed-size circuit that differ at an error rate."""
        return int(self.found(rate, control)[self.circuit.places].sum())

    def chance_share(self, confidence: float = 0.95) -> Estimate:
        r"""The share of the circuit that shuffled labels would fill.

        With the strength c of the circuit's weakest contrast, this is $E_0(c) / N(c)$: the mean
        number of neurons at least as strong under shuffled labels, divided by the number under the
        true labels. A value above 1 says that shuffled labels give stronger contrasts than the true
        labels.
        """
        return over_resamples(self.as_strong.double() / len(self.circuit), confidence)

    def curves(self) -> NullCurves:
        """The data that `viz.null` draws."""
        tested = self.pooled_p_value[self.pooled_p_value.isfinite()]
        p_values, counts = tested.unique(return_counts=True)
        at_or_below = counts.cumsum(0)
        drawn = thinned(len(p_values))
        return NullCurves(
            k=len(self.circuit),
            as_strong=tuple(self.as_strong.tolist()),
            chance_share=self.chance_share(),
            p_values=tuple(p_values[drawn].tolist()),
            n_at_or_below=tuple(at_or_below[drawn].tolist()),
            n_tested=len(tested),
            found=self._headline(),
        )

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each neuron that may be chosen."""
        import pandas as pd

        layout = self.scores.layout
        tested = self.p_value.isfinite()
        starts = torch.tensor([layout.start(mlp) for mlp in layout.mlps])[layout.mlp_of]
        chosen = torch.zeros_like(tested)
        chosen[self.circuit.places] = True
        columns = {
            "layer": layout.layer_of,
            "index": torch.arange(layout.n_neurons) - starts,
            "score": self.scores.values,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "pooled_p_value": self.pooled_p_value,
            "q_value": self.q_value,
            "familywise_p_value": self.familywise_p_value,
            "in_circuit": chosen,
        }
        frame = pd.DataFrame({name: values[tested].numpy() for name, values in columns.items()})
        if layout.experts:
            experts = [layout.mlps[place].expert for place in layout.mlp_of[tested].tolist()]
            frame.insert(1, "expert", pd.array(experts, dtype="Int64"))
        return frame

    def _headline(self) -> str:
        size = len(self.circuit)
        return (
            f"{self.found_in_circuit()} of the circuit's {size} neurons differ at a false "
            f"discovery rate of 5 %, {self.n_permutations} shufflings"
        )

    def _facts(self) -> list[tuple[str, str]]:
        return [
            *super()._facts(),
            ("shufflings", f"{self.n_permutations}{', all there are' if self.exact else ''}"),
            ("by chance", f"{self.chance_share()} of the circuit's size"),
            *(
                (f"{control.replace('_', ' ')} 5 %", f"{self.size(control=control)} neurons")
                for control in get_args(Control)
            ),
        ]

    def _table(self) -> Table:
        places = self.circuit.places
        columns = {
            "score": (self.scores.values, "+.3f"),
            "p": (self.p_value, ".2g"),
            "q": (self.q_value, ".2g"),
            "familywise p": (self.familywise_p_value, ".2g"),
        }
        return neuron_table(
            "Neurons of the circuit",
            self.circuit.neurons,
            {
                name: [Cell.of(value, form) for value in values[places].tolist()]
                for name, (values, form) in columns.items()
            },
        )

    def record(self) -> dict[str, Any]:
        """Sizes at usual rates, the figure's data and settings; `to_frame` has the neurons."""
        return {
            "k": len(self.circuit),
            "n_tested": int(self.p_value.isfinite().sum()),
            "size": {
                control: {
                    str(rate): {
                        "size": self.size(rate, control),
                        "in_circuit": self.found_in_circuit(rate, control),
                    }
                    for rate in (0.001, 0.01, 0.05)
                }
                for control in get_args(Control)
            },
            "chance_share": asdict(self.chance_share()),
            "curves": asdict(self.curves()),
            **self._settings(),
        }


def null_distribution(
    positive: PromptActivations,
    negative: PromptActivations,
    selection: Selection | None = None,
    *,
    paired: bool = False,
    n_permutations: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> NullDistribution:
    r"""Shuffle the labels many times, and find the neurons that differ more than chance explains.

    A shuffling permutes the labels for all neurons at once, so dependence between neurons stays.
    The test compares each neuron's correlation r between label and activation. For one neuron, r
    orders the shufflings as the contrast does; unlike the contrast, r has the same scale for all
    neurons. With n prompts, the t statistic is $r \sqrt{(n - 2) / (1 - r^2)}$. With the true $r_j$
    of neuron j, its $r_j^b$ in shuffling b, B shufflings and M tested neurons:

    - alone: $p_j = (1 + \#\{b : |r_j^b| \geq |r_j|\}) / (1 + B)$, which is never below
      $1 / (1 + B)$, too coarse to survive a correction for tens of thousands of neurons;
    - pooled: $p_j = (1 + \#\{b, i : |r_i^b| \geq |r_j|\}) / (1 + B M)$, where all tested neurons'
      shuffled statistics form one distribution (Tusher, Tibshirani and Chu, 2001, here without a
      constant added to the deviations); this assumes that all neurons share one null distribution.
      That does not hold for contrasts in units of activation, which is why r is used;
    - false discovery rate: the procedure of Benjamini and Hochberg (1995) on the pooled p-values.
      Apart from the added 1, a neuron's q-value is the smallest $E_0 / N$ over all thresholds it
      reaches: the mean number of neurons at or above the threshold under shuffled labels, divided
      by the number under the true labels;
    - family-wise: $(1 + \#\{b : \max_i |r_i^b| \geq |r_j|\}) / (1 + B)$ (Westfall and Young, 1993,
      single-step maxT), which assumes nothing about how neurons depend on each other.

    The 1 counts the true labels (Phipson and Smyth, 2010). Where at most B permutations of the
    labels exist, each is taken once, the true labels included, and no 1 is added. With one sign
    selected, r or -r replaces the magnitude. Paired labels are swapped within pairs: with
    differences d, $r = \sum d / \sqrt{n \sum d^2}$ and $t = r \sqrt{(n - 1) / (1 - r^2)}$.

    A small p-value says that a neuron differs between these sets of prompts, not that it causes
    anything; with many prompts most neurons differ. Cost: no forward pass; a shuffling is one row
    of a matrix product.

    >>> positive = collect(tiny_model, [[5, 6], [7], [8, 9]], keep="all")
    >>> negative = collect(tiny_model, [[30], [31, 32], [33]], keep="all")
    >>> null = null_distribution(positive, negative, Selection(k=2))
    >>> null.exact, null.n_permutations, round(float(null.p_value.min()), 3)
    (True, 20, 0.1)

    Args:
        positive: from `collect(..., keep="all")`.
        negative: the same for the prompts without the behaviour.
        selection: chooses the fixed-size circuit that is compared; its sign, layers and universal
            neurons also define which neurons are tested.
        paired: swap labels only within pairs, the prompts at one place of both sets.
        n_permutations: shufflings.
        seed: of the shufflings.
        progress: show a progress bar.

    Raises:
        InputError: sets that cannot be contrasted, or settings out of range.
    """
    check_counts(n_permutations=n_permutations)
    chosen = selection or Selection()
    sets = ActivationSets(positive, negative, paired)
    scores = sets.scores()
    circuit = chosen.circuit(scores)
    tested = chosen.candidates(sets.layout)
    labels, exact = label_permutations(sets, n_permutations, seed)
    observed = true_correlations(sets)
    counted = count_shuffled(
        sets,
        labels,
        chosen,
        tested,
        chosen.strength(observed),
        weakest=min(abs(score) for score in circuit.scores),
        progress=progress,
    )
    # All permutations include the true labels already.
    true_one = 0 if exact else 1
    n, n_tested = len(labels), int(tested.sum())

    def p_value(reached: Tensor, among: int) -> Float64[Tensor, " tested"]:
        return (reached.double() + true_one) / (among + true_one)

    pooled = p_value(counted.pooled, n * n_tested)
    freedom = (sets.n_positive if paired else labels.shape[1] - 1) - 1

    def spread(values: Tensor) -> Float64[Tensor, " neuron"]:
        everywhere = torch.full(tested.shape, torch.nan, dtype=torch.float64)
        everywhere[tested] = values
        return everywhere

    return NullDistribution(
        scores=scores,
        circuit=circuit,
        selection=chosen,
        statistic=observed * (freedom / (1 - observed**2).clamp(min=0)).sqrt(),
        p_value=spread(p_value(counted.alone, n)),
        pooled_p_value=spread(pooled),
        q_value=spread(torch.from_numpy(false_discovery_control(pooled.numpy()))),
        familywise_p_value=spread(p_value(counted.largest, n)),
        as_strong=counted.as_strong,
        n_positive=sets.n_positive,
        n_negative=sets.n_negative,
        n_permutations=n,
        exact=exact,
        paired=paired,
        seed=seed,
    )
