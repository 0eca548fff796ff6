# SPDX-License-Identifier: Apache-2.0
"""transformers' LLaMA with the weights of a state."""
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from support.compare import Steps
from support.trace import RECIPE, merge


def make_llama(state, recipe=None):
    sizes = merge(RECIPE, recipe or {})["model"]
    weights = state.weights()
    config = LlamaConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0], hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"], num_hidden_layers=sizes["n_layers"], num_attention_heads=sizes["n_heads"],
        num_key_value_heads=sizes.get("n_kv_heads", sizes["n_heads"]), max_position_embeddings=sizes["max_sequence_length"],
        rms_norm_eps=sizes.get("norm_eps", 1e-6), rope_theta=sizes.get("rope_theta", 1e4),
        rope_parameters={"rope_type": "default", "rope_theta": sizes.get("rope_theta", 1e4)},
        tie_word_embeddings=sizes.get("tie_embeddings", False), attn_implementation="eager", use_cache=False)
    model = LlamaForCausalLM(config)
    load_weights(model, weights)
    return model.float().train()


def load_weights(model, weights):
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    if missing:
        assert model.config.tie_word_embeddings, missing


def backward(model, batches):
    """Gradients of the mean loss over the targets of all micro-batches; returns that loss."""
    count = sum((targets != -100).sum().item() for _, targets in batches)
    total = 0.0
    for tokens, targets in batches:
        logits = model(tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total


def matrices(model):
    """The seven matrices of each layer by name."""
    return {name: module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def role(name):
    """The key of optimizer.lr_scale that a parameter falls under."""
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "norms" if "norm" in name else "matrices"


def groups_of(model, lr_scale=None, weight_decay=0.0, **of_matrices):
    """An optimizer's groups by role; `factor` is what the learning rate is multiplied by, and only matrices decay."""
    groups = {}
    for name, p in model.named_parameters():
        groups.setdefault(role(name), []).append(p)
    extra = {"matrices": {"weight_decay": weight_decay} | of_matrices}
    return [{"params": params, "factor": (lr_scale or {}).get(key, 1.0), "weight_decay": 0.0} | extra.get(key, {})
            for key, params in groups.items()]


def snapshot(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def run(trace, model, optimizer, before_step=None, after_step=None, weights=snapshot, teacher=False):
    """Takes the trace's steps, all of them updates, at the trace's learning rates. With `teacher` each begins with the trace's weights."""
    result = Steps(weights(model), trace if teacher else None)
    for step in trace.steps:
        if teacher:
            load_weights(model, trace.state(step).weights())
        for group in optimizer.param_groups:
            group["lr"] = trace.report(step)["lr"] * group.get("factor", 1.0)
        optimizer.zero_grad()
        result.losses[step] = backward(model, trace.batches(step))
        if before_step is not None:
            before_step(step)
        optimizer.step()
        if after_step is not None:
            after_step(step)
        result.weights[step] = weights(model)
    return result
