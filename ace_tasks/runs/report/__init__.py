"""The contact sheet of a run: before, after, mask and references of its rows, as HTML pages; and the
page of a comparison, with a row's pictures side by side.

A page is self-contained: pictures, style and script are embedded and nothing else is loaded, so it
opens from disk as well as from a link. The template engine escapes all text of a catalog, and the
page's content security policy allows only its own style and script.

pages       render the pages of a contact sheet, one after the other
comparison  render the page of a comparison
cards       the facts and pictures of one row
thumbnails  the pictures, in the size they are shown
assets      templates, style, scripts, and the policy that lets nothing else run
"""
