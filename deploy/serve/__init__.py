"""A service that embeds images and searches a gallery, with a page for the browser: `python -m deploy.serve`."""
