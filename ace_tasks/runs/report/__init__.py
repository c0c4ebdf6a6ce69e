"""The contact sheet of a run: before, after, mask and references of its rows, as HTML pages.

A page is self-contained: pictures, style and script are embedded and nothing else is loaded, so it
opens from disk as well as from a link. The template engine escapes all text of a catalog, and the
page's content security policy allows only its own style and script.

pages       render the pages one after the other
cards       the facts and pictures of one row
thumbnails  the pictures, in the size they are shown
"""
