"""HTML as a parser sees it."""

from html.parser import HTMLParser

VOID = {"img", "rect", "line", "meta", "input"}


class Parsed(HTMLParser):
    """The elements, the text and the table rows of a fragment; every tag must be closed."""

    def __init__(self, fragment):
        super().__init__()
        self.elements, self.text, self.rows, self.open = [], "", [], []
        self.feed(fragment)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
            if self.open[-1] in ("td", "th"):
                self.rows[-1][-1] += data

    def attributes(self, wanted):
        return [attributes for tag, attributes in self.elements if tag == wanted]
