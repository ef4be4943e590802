"""A bench of the audit's study on a tiny model, with parts that would take long to find."""

from dataclasses import dataclass

import tiny
import torch

import cna_lens
from cna_lens import Neuron
from experiments.audit.bench import RANKINGS, Bench
from experiments.audit.references import Places, Reference
from experiments.audit.weight_edits import weights_of


@dataclass(frozen=True)
class TinyReference(Reference):
    """The tiny model of the tests."""

    def load(self, dtype=torch.float32):
        return tiny.bridge("llama", chat=True, dtype=dtype)

    def hugging_face(self):
        return tiny.hugging_face("llama")


IDS = torch.tensor([[5, 6, 7, 8]])


def logits(model):
    """What a model computes of a few tokens."""
    with torch.no_grad():
        return model(IDS)


TINY = TinyReference("tiny", places=Places(1, -2, 1))


def tiny_bench(reference, folder):
    """The tiny model, with given circuits, vectors and weights."""
    found = Bench(reference, folder, n_pairs=4, reference=TINY)
    layout = cna_lens.Layout((tiny.WIDTH, tiny.WIDTH))
    (folder / "circuits").mkdir()
    for i, ranking in enumerate(RANKINGS):
        neurons = tuple(Neuron(layer, 2 * i + place) for place in range(2) for layer in range(2))
        cna_lens.Circuit(neurons, (4.0, 3.0, 2.0, 1.0), layout).save(
            folder / "circuits" / f"{ranking}.json"
        )
    generator = torch.Generator().manual_seed(0)

    def vectors(site, *layers):
        drawn = torch.randn((len(layers), 16), generator=generator).double()
        return cna_lens.steering.ControlVectors(site, layers, drawn, 2)

    stream = vectors("hook_resid_pre", 1)
    words = [f"w{i}" for i in range(5, 40)]
    base = tiny.bridge("llama", chat=True, seed=1)
    given = {
        "discovery": (
            tuple(f"{words[i]} {words[i + 9]}" for i in range(4)),
            tuple(f"{words[i + 20]} {words[i + 11]}" for i in range(4)),
        ),
        "direction": cna_lens.DirectionalAblation(stream),
        "directions": vectors("hook_resid_pre", 0, 1),
        "concepts": torch.randn((3, 16), generator=generator).double(),
        "mlp_vectors": cna_lens.VectorAddition(vectors("hook_mlp_out", 0, 1)),
        "stream_vector": cna_lens.VectorAddition(vectors("hook_resid_post", 1)),
        "benign": cna_lens.collect(reference, [[5, 6], [7]]),
        "base": base,
        "without_adapter": weights_of(base),
    }
    vars(found).update(given)
    return found
