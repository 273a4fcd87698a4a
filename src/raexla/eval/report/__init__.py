"""One self-contained HTML page about a folder of runs: it opens from a disk, without network and without scripts.

`collect.py` reads what runs, samples and scores left behind (and nothing else: the page can be made again at any time),
`charts.py` draws SVG, `page.py` puts both into the template `page.html.j2`. Whatever is missing is left out.
"""

from raexla.eval.report.page import write_report

__all__ = ["write_report"]
