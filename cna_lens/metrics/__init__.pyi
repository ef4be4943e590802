from .answer_labels import AnswerRecord as AnswerRecord, Evaluation as Evaluation
from .answer_texts import write_answers as write_answers
from .behaviours import BEHAVIOURS as BEHAVIOURS, Behaviour as Behaviour
from .compliance import complies as complies, no_answer as no_answer
from .conditions import Answered as Answered, load_labels as load_labels, save_labels as save_labels
from .endpoint.replies import Missing as Missing
from .endpoint.settings import Endpoint as Endpoint
from .evaluation import UnjudgedError as UnjudgedError, evaluate as evaluate, label as label
from .first_token import (
    REFUSAL_OPENINGS as REFUSAL_OPENINGS,
    LogitDifference as LogitDifference,
    LogOdds as LogOdds,
    first_tokens as first_tokens,
    log_odds as log_odds,
    refusal_log_odds as refusal_log_odds,
)
from .judging.judge import Judge as Judge, Judgements as Judgements, judge as judge
from .judging.rubric import Judgement as Judgement
from .likelihood import (
    factual_accuracy as factual_accuracy,
    kl_per_token as kl_per_token,
    perplexity as perplexity,
    text_perplexity as text_perplexity,
)
from .openings import (
    opening_log_odds as opening_log_odds,
    refusal_openings as refusal_openings,
)
from .outcome_table import (
    OutcomeRow as OutcomeRow,
    OutcomeTable as OutcomeTable,
    outcomes as outcomes,
)
from .quality import (
    compression_ratio as compression_ratio,
    distinct_n as distinct_n,
    ngram_quality as ngram_quality,
)
from .refusal.reasoning import without_reasoning as without_reasoning
from .refusal.rules import is_refusal as is_refusal
from .tasks.harness import run_lm_eval as run_lm_eval
from .tasks.mmlu_sample import mmlu as mmlu
from .tasks.task_result import TaskResult as TaskResult

__all__ = [
    "BEHAVIOURS",
    "REFUSAL_OPENINGS",
    "AnswerRecord",
    "Answered",
    "Behaviour",
    "Endpoint",
    "Evaluation",
    "Judge",
    "Judgement",
    "Judgements",
    "LogOdds",
    "LogitDifference",
    "Missing",
    "OutcomeRow",
    "OutcomeTable",
    "TaskResult",
    "UnjudgedError",
    "complies",
    "compression_ratio",
    "distinct_n",
    "evaluate",
    "factual_accuracy",
    "first_tokens",
    "is_refusal",
    "judge",
    "kl_per_token",
    "label",
    "load_labels",
    "log_odds",
    "mmlu",
    "ngram_quality",
    "no_answer",
    "opening_log_odds",
    "outcomes",
    "perplexity",
    "refusal_log_odds",
    "refusal_openings",
    "run_lm_eval",
    "save_labels",
    "text_perplexity",
    "without_reasoning",
    "write_answers",
]
