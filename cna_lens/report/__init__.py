"""One HTML file of what was found: it needs no network, and says what to bear in mind.

`write_report(["out/demo"], "report.html")` reads files and folders; of results at hand
`make_report({"refusal": circuit, "chance": null}).save("report.html")` is the report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
