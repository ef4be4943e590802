"""One HTML file of what was found: it needs no network, and says what to bear in mind.

`write_report(["out/demo"], "report.html")` reads files and folders; of results at hand
`make_report({"refusal": circuit, "chance": null}).save("report.html")` is the report.
"""

from cna_lens.report.document import Report, make_report, write_report
from cna_lens.report.evidences import SavedEvidence
from cna_lens.report.reading import Found, Named, Result, read_results
from cna_lens.report.runs import Run
from cna_lens.report.sections import Picture, Section
from cna_lens.report.studies import StudyRow, StudyTable
from cna_lens.report.texts import Texts
from cna_lens.report.tokens import token_section
from cna_lens.report.verdict import verdicts

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
