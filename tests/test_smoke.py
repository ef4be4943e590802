import cna_lens


def test_finds_a_circuit_on_every_family(model):
    circuit = cna_lens.find_circuit(
        model, ["w5 w6 w7"], ["w9 w8"], k=4, universal=None, progress=False, chat=False
    )
    assert len(circuit) == 4
    with cna_lens.steer(model, circuit, 0.0, positions="last_prompt"):
        cna_lens.generate(model, ["w3 w4"], max_new_tokens=3)
