"""Tables, figures and the HTML page; reads records only, never imports torch."""
