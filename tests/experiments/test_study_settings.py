"""A study's settings, as files and as options."""

import pytest

from cna_lens import InputError, circuit_size
from experiments.study import paper
from experiments.study.settings import CONFIGS, load_study, with_settings
from experiments.study.sources import Sources, spread

PAIR = '[[pairs]]\nname = "a"\ninstruct = "x/a-Instruct"\n'


@pytest.fixture
def read(tmp_path):
    def load(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_study(path)

    return load


def test_a_file_names_the_study_and_missing_settings_have_defaults(read):
    study = read(f"limit = 5\nstrengths = [0, 0.5, 1]\n{PAIR}")
    assert (study.name, study.limit, study.strengths) == ("mine", 5, (0.0, 0.5, 1.0))
    assert study.max_new_tokens == paper.MAX_NEW_TOKENS
    assert [subject.source for subject in study.subjects("instruct", "base")] == ["x/a-Instruct"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"max_new_token = 5\n{PAIR}",
            "unknown key 'max_new_token'; did you mean 'max_new_tokens'",
        ),
        (f'{PAIR}dtyp = "float32"\n', "pairs has the unknown key 'dtyp'; did you mean 'dtype'"),
        (f'{PAIR}dtype = "bfloat61"\n', "dtype is 'bfloat61'; did you mean 'bfloat16'"),
        (f'universal_filter = "befor"\n{PAIR}', "did you mean 'before'"),
        (f'limit = "5"\n{PAIR}', "limit is '5', expected int"),
        (f"limit = true\n{PAIR}", "limit is True, expected int"),
        (f"strengths = 1.0\n{PAIR}", "strengths is 1.0, expected a list"),
        (f"strengths = [0.0, 0.5]\n{PAIR}", "expected 0, 1 and values between them"),
        (f"block_size = 0\n{PAIR}", "block_size is 0, expected at least 1"),
        ("limit = 5\n", "lacks 'pairs'"),
        ('[[pairs]]\nname = "a"\n', "lacks 'instruct'"),
        ("limit = \n", "is no TOML"),
        (f"judge = 3\n{PAIR}", "judge is 3, expected a table"),
    ],
)
def test_a_mistake_is_named_with_a_suggestion(read, text, message):
    with pytest.raises(InputError) as raised:
        read(text)
    assert message in str(raised.value)
    assert "mine.toml" in str(raised.value) or "expected" in str(raised.value)


def test_an_unknown_study_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="there are paper, smoke, smollm2"):
        load_study("papers")


def test_options_are_checked_like_the_file():
    study = load_study("smollm2")
    assert with_settings(study, seed=None, caa_sign="add").caa_sign == "add"
    with pytest.raises(InputError, match="did you mean 'subtract'"):
        with_settings(study, caa_sign="substract")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_packaged_studies_load(name):
    assert load_study(name).name == name


def test_the_papers_sixteen_models_fit_on_their_devices():
    pairs = load_study("paper").pairs
    assert tuple(pair.name for pair in pairs) == paper.NAMES
    assert len({pair.instruct for pair in pairs} | {pair.base for pair in pairs}) == 16
    for pair in pairs:
        billions = float(pair.name.rsplit("-", 1)[1].removesuffix("B"))
        assert 2e9 * billions / 2**30 < pair.memory_gib < 80 * pair.devices
        assert pair.dtype == "bfloat16"


def test_the_papers_tables_contain_its_eight_pairs():
    assert set(paper.TABLE1) == set(paper.TABLE2) == set(paper.TABLE3)
    assert set(paper.TABLE6) == set(paper.TABLE7) == set(paper.TABLE8) <= set(paper.TABLE1)
    # 0.1 % of 16 layers x 8192, as a check that "0.1 %" and the paper's k are one thing.
    assert circuit_size(16 * 8192, load_study("paper").fraction) == 131


def test_prompts_are_spread_over_the_whole_set():
    prompts = tuple(str(i) for i in range(90))
    assert spread(prompts, 3) == ("0", "30", "60")
    assert spread(prompts, 90) == spread(prompts, None) == prompts


def test_a_model_missing_in_a_mirror_is_not_downloaded(tmp_path):
    with pytest.raises(InputError, match="is not in the mirror"):
        Sources(tmp_path).locate("tiny/llama")
    (tmp_path / "tiny" / "llama").mkdir(parents=True)
    assert Sources(tmp_path).locate("tiny/llama") == str(tmp_path / "tiny" / "llama")
    assert Sources(tmp_path).locate("demo") == "demo"
    assert Sources().locate("tiny/llama") == "tiny/llama"


def test_an_unknown_set_of_requests_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="JailbreakBench/JBB-Behaviors, refusal"):
        Sources().harmful_requests("advbench", None)
