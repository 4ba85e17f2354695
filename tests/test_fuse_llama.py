"""All fusions on a LLaMA of Hugging Face with random weights, as the dynamo exporter writes it."""

from __future__ import annotations

from collections import Counter

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from trtforge_plugins.fuse import FuseGatedActivation, FuseRMSNorm, FuseRotaryEmbedding

from trtforge.testing import apply, run_model

LAYERS = 2


@pytest.fixture(scope="module")
def llama() -> ir.Model:
    """Two layers, batch and length dynamic."""
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")
    transformers = pytest.importorskip("transformers", reason="not a dependency; pip install it")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=32, use_cache=False, attn_implementation="eager",
    )  # fmt: skip

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.LlamaForCausalLM(config)

        def forward(self, ids):
            return self.model(input_ids=ids, use_cache=False).logits

    dims = {0: torch.export.Dim("batch", min=2, max=8), 1: torch.export.Dim("length", min=2)}
    program = torch.onnx.export(
        Logits().eval(), (torch.ones(2, 5, dtype=torch.long),), dynamo=True, opset_version=18,
        verbose=False, dynamic_shapes={"ids": dims},
    )  # fmt: skip
    return fusions.ready(ir.from_proto(program.model_proto))


@pytest.mark.slow
def test_every_block_of_a_llama_is_fused(llama: ir.Model) -> None:
    after, found = llama, Counter[str]()
    for step in (FuseRMSNorm(), FuseGatedActivation(), FuseRotaryEmbedding()):
        after, changes, notes = apply(step, after)
        assert (changes, notes) == (sum(fusions.ops_of(after).values()) - found.total(), [])
        found = fusions.ops_of(after)
    assert found == {
        "RMSNorm": 1,  # the first has no addition in front
        "AddRMSNorm": 2 * LAYERS,
        "GatedActivation": LAYERS,
        "RotaryEmbedding": 2 * LAYERS,
    }
    ids = np.arange(21, dtype=np.int64).reshape(3, 7)
    (before,) = run_model(llama, {"ids": ids}).values()
    (result,) = run_model(after, {"ids": ids}).values()
    # float32 through two layers, with sums in another order: logits of about 0.1.
    np.testing.assert_allclose(result, before, rtol=1e-4, atol=1e-6)
