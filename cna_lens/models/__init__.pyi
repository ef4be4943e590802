from .cluster.placing import Machine as Machine, Needs as Needs, resources as resources
from .cluster.showing import WorkerRows as WorkerRows, Working as Working
from .cluster.workers import (
    Finished as Finished,
    Job as Job,
    ModelTasks as ModelTasks,
    run_on_ray as run_on_ray,
)
from .estimate import Requirements as Requirements, requirements as requirements
from .hooked_model import HookedModel as HookedModel, model_name as model_name
from .inside.expert_hooks import expert_hooks as expert_hooks
from .inside.sites import hook_name as hook_name
from .inside.weights import weights_hash as weights_hash
from .loading.adapters import (
    ADAPTER_BASE as ADAPTER_BASE,
    ADAPTER_FOLDER as ADAPTER_FOLDER,
    ADAPTER_SHA256 as ADAPTER_SHA256,
    merge_adapter as merge_adapter,
)
from .loading.compiled import (
    COMPILED_FOLDER as COMPILED_FOLDER,
    COMPILED_INDEX as COMPILED_INDEX,
    COMPILED_PREFIX as COMPILED_PREFIX,
    CompiledProgram as CompiledProgram,
    compiled_program as compiled_program,
    compiled_programs as compiled_programs,
    compiled_truth as compiled_truth,
)
from .loading.load import (
    demo_gguf as demo_gguf,
    dequantised_folder as dequantised_folder,
    load_model as load_model,
)
from .loading.planted import (
    PLANTED_FOLDER as PLANTED_FOLDER,
    PLANTED_INDEX as PLANTED_INDEX,
    PLANTED_PREFIX as PLANTED_PREFIX,
    Planting as Planting,
    Split as Split,
    planted_models as planted_models,
    planted_truth as planted_truth,
    planting as planting,
    planting_sha256 as planting_sha256,
)
from .prompts.chats import ChatSettings as ChatSettings
from .prompts.encoding import TokenIds as TokenIds, encode as encode, pad_token_id as pad_token_id
from .prompts.files import read_prompts as read_prompts
from .prompts.reasoning_formats import (
    REASONING_FORMATS as REASONING_FORMATS,
    ReasoningFormat as ReasoningFormat,
)
from .prompts.sets import (
    PURPOSES as PURPOSES,
    PromptSet as PromptSet,
    diverse_prompts as diverse_prompts,
    prompt_set as prompt_set,
)
from .running.batching import (
    length_buckets as length_buckets,
    pad as pad,
    shared_prefix_length as shared_prefix_length,
)
from .running.forward import SharedPrefix as SharedPrefix, forward_logits as forward_logits
from .running.generation import generate as generate, stream as stream
from .running.positions import (
    Positions as Positions,
    prompt_lengths as prompt_lengths,
    whole_prompts as whole_prompts,
)
from .running.reasoning import with_reasoning as with_reasoning
from .tokens.answer_log_probs import (
    AnswerLogProbs as AnswerLogProbs,
    answer_log_probs as answer_log_probs,
)
from .tokens.promoted_tokens import (
    PromotedTokens as PromotedTokens,
    promoted_tokens as promoted_tokens,
)
from .tokens.token_activations import (
    TokenActivations as TokenActivations,
    token_activations as token_activations,
)

__all__ = [
    "ADAPTER_BASE",
    "ADAPTER_FOLDER",
    "ADAPTER_SHA256",
    "COMPILED_FOLDER",
    "COMPILED_INDEX",
    "COMPILED_PREFIX",
    "PLANTED_FOLDER",
    "PLANTED_INDEX",
    "PLANTED_PREFIX",
    "PURPOSES",
    "REASONING_FORMATS",
    "AnswerLogProbs",
    "ChatSettings",
    "CompiledProgram",
    "Finished",
    "HookedModel",
    "Job",
    "Machine",
    "ModelTasks",
    "Needs",
    "Planting",
    "Positions",
    "PromotedTokens",
    "PromptSet",
    "ReasoningFormat",
    "Requirements",
    "SharedPrefix",
    "Split",
    "TokenActivations",
    "TokenIds",
    "WorkerRows",
    "Working",
    "answer_log_probs",
    "compiled_program",
    "compiled_programs",
    "compiled_truth",
    "demo_gguf",
    "dequantised_folder",
    "diverse_prompts",
    "encode",
    "expert_hooks",
    "forward_logits",
    "generate",
    "hook_name",
    "length_buckets",
    "load_model",
    "merge_adapter",
    "model_name",
    "pad",
    "pad_token_id",
    "planted_models",
    "planted_truth",
    "planting",
    "planting_sha256",
    "promoted_tokens",
    "prompt_lengths",
    "prompt_set",
    "read_prompts",
    "requirements",
    "resources",
    "run_on_ray",
    "shared_prefix_length",
    "stream",
    "token_activations",
    "weights_hash",
    "whole_prompts",
    "with_reasoning",
]
