"""Reports: one HTML file of results and their caveats, which needs no network.

`write_report(["out/demo"], "report.html")` reads files and folders;
`make_report({"refusal": circuit, "chance": null}).save("report.html")` takes results in memory.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
