"""The contact sheet of a run: before, after, mask and references of its rows, as HTML pages.

Self-contained: pictures, style and script are embedded, and a page asks for nothing else, so it
opens from disk or from a link alike. Whatever a catalog says is escaped by the template engine,
and the page's own policy lets run only what it came with.

pages       one page after the other
cards       what is said of a row
thumbnails  pictures, as small as they are shown
"""
