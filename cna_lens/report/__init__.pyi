from .answers import verdicts as verdicts
from .document import Report as Report, make_report as make_report, write_report as write_report
from .evidences import SavedEvidence as SavedEvidence
from .reading import Found as Found, Named as Named, Result as Result, read_results as read_results
from .runs import Run as Run
from .sections import Picture as Picture, Section as Section
from .study_table import StudyRow as StudyRow, StudyTable as StudyTable
from .texts import Texts as Texts
from .tokens import token_section as token_section

__all__ = [
    "Found",
    "Named",
    "Picture",
    "Report",
    "Result",
    "Run",
    "SavedEvidence",
    "Section",
    "StudyRow",
    "StudyTable",
    "Texts",
    "make_report",
    "read_results",
    "token_section",
    "verdicts",
    "write_report",
]
